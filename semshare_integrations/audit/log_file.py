"""Requests in a file of JSON lines, as OpenAI's clients, batches and proxies log them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_core.prompt.encode import Prompt
from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.openai_messages import to_template

_WITHIN = ("body", "request", "kwargs")  # a batch's lines, and those of some proxies, have the request in a field


def read_requests(path: Path) -> list[tuple[int, Mapping[str, Any] | str]]:
    """The number of each line that is not empty, with its request, or with the reason why it has none.

    Raises:
        ConfigError: the file cannot be read, or no line has a request.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            found = [(number, _request(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the log {path} cannot be read: {error}.") from error
    if not found:
        raise ConfigError(f"the log {path} has no requests: name a file with one a line.")
    if all(isinstance(each, str) for _, each in found):
        raise ConfigError(f"the log {path} has no requests. Line {found[0][0]}: {found[0][1]}")
    return found


def prompts_of(engine: SemShareEngine, request: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of a request, as a server would make them: of a text completion there may be several.

    Raises:
        ValueError: messages, tools or prompts are malformed.
    """
    if "messages" not in request:
        prompt = request["prompt"]
        if not isinstance(prompt, str | list):
            raise ValueError(f"prompt must be a text, token ids, or a list of either; got {type(prompt).__name__}.")
        return prompt if prompt and isinstance(prompt, list) and isinstance(prompt[0], str | list) else [prompt]
    messages, tools = _objects(request, "messages"), _objects(request, "tools")
    for tool in tools:
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError("each of the tools must have a function with a name.")
    return [ChatCall.of(engine, to_template(messages), tools=tools).prompt]


def _objects(request: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    given = request.get(name) or []
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise ValueError(f"{name} must be a list of objects.")
    return given


def _request(line: str) -> Mapping[str, Any] | str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number of thousands of digits
        return f"it is not JSON: {error}."
    for name in _WITHIN:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not ("messages" in found or "prompt" in found):
        return (
            "it has neither messages nor a prompt: a line must be a chat or text completion of OpenAI's API, or an "
            "object with one in the field 'body' or 'request'."
        )
    return found
