"""Convert OpenAI's messages, as JSON, to mappings for chat templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from semshare_integrations.adapter.chat_call import openai_call
from semshare_integrations.adapter.content import answer_text, text_of, tool_text

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def to_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mappings with ``role``, ``content`` (text) and, if the message has them, ``tool_calls`` or a ``tool_call_id``.

    Raises:
        ValueError: a role is unknown, content is missing or not text, or a call is malformed.
    """
    return [_converted(number, message) for number, message in enumerate(messages)]


def _converted(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    role = _ROLES.get(str(message.get("role")))
    if role is None:
        raise ValueError(f"messages[{number}] has the role {message.get('role')!r}: use one of {', '.join(_ROLES)}.")
    whose, content = f"messages[{number}]", message.get("content")
    calls = message.get("tool_calls") or ()
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise ValueError(f"the tool_calls of {whose} are no list.")
    if content is None and role == "assistant" and (calls or message.get("refusal")):
        content = ""
    if not isinstance(content, str | Sequence) or not all(isinstance(block, str | Mapping) for block in content):
        raise ValueError(f"{whose} has no content: it must be a text or a list of content parts.")
    if role == "tool":
        call = message.get("tool_call_id")
        if not isinstance(call, str | None) or not isinstance(message.get("name"), str | None):
            raise ValueError(f"the tool_call_id and the name of {whose} must be texts.")
        return {
            "role": role,
            "content": tool_text(content, whose),
            "name": message.get("name") or "",
            "tool_call_id": call,
        }
    if role != "assistant":
        return {"role": role, "content": text_of(content, whose)}
    converted: dict[str, Any] = {"role": role, "content": answer_text(content, whose, message.get("refusal"))}
    if calls:
        converted["tool_calls"] = [_call(whose, call) for call in calls]
    return converted


def _call(whose: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str):
        raise ValueError(f"{whose} has a tool call without a function's name.")
    return openai_call(name, call_arguments(name, function.get("arguments")), str(call.get("id") or ""))


def call_arguments(name: str, arguments: Any) -> dict[str, Any]:
    """The arguments of a call of the tool ``name``, from JSON or a mapping.

    Raises:
        ValueError: they are no JSON object.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"the arguments of the call of {name!r} are not JSON: {error}.") from error
        except RecursionError:
            raise ValueError(f"the arguments of the call of {name!r} are nested too deeply.") from None
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of the call of {name!r} must be a JSON object; got {arguments!r}.")
    return dict(arguments)
