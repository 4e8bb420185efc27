"""Requests in a file of JSON lines, as OpenAI's clients, batches and proxies log them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_core.prompt.encode import Prompt
from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.openai_messages import to_template

_WITHIN = ("body", "request", "kwargs")  # a batch's lines, and those of some proxies, have the request in a field


def read_requests(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number and the request of each line that has one.

    Raises:
        ConfigError: the file cannot be read, or a line is no JSON object with ``messages`` or ``prompt``.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _request(path, number, line)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the log {path} cannot be read: {error}.") from error


def prompt_of(engine: SemShareEngine, request: Mapping[str, Any]) -> Prompt:
    """The prompt of a request, as a server would make it.

    Raises:
        ValueError: messages or tools are malformed.
    """
    if "messages" not in request:
        prompt = request["prompt"]
        return prompt if isinstance(prompt, str) else list(prompt)
    return ChatCall.of(engine, to_template(request["messages"]), tools=request.get("tools") or ()).prompt


def _request(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}, line {number} is not JSON: {error}.") from error
    for name in _WITHIN:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
            break
    if not isinstance(found, dict) or not ("messages" in found or "prompt" in found):
        raise ConfigError(
            f"{path}, line {number} has neither messages nor a prompt: a line must be a request of OpenAI's API, or an "
            "object with one in the field 'body' or 'request'."
        )
    return found
