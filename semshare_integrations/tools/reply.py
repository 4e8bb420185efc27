"""Parse a reply into text, tool calls, and calls that are invalid."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from semshare_integrations.tools.call_format import THOUGHT, THOUGHT_END, CallFormat


@dataclass(frozen=True)
class ToolCall:
    """A call of the tool ``name``."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class InvalidCall:
    """A text that looks like a call, and the error in it."""

    text: str
    error: str
    name: str | None = None


@dataclass(frozen=True)
class Reply:
    """Text and calls of one reply, in this order."""

    text: str
    calls: list[ToolCall] = field(default_factory=list)
    invalid: list[InvalidCall] = field(default_factory=list)


def parse_reply(text: str, form: CallFormat, names: Collection[str]) -> Reply:
    """Parse a reply with its special tokens. Its calls may name the tools ``names``.

    If a limit of tokens cut a call off, it is among the invalid calls.
    """
    start = calls_start(text, form)
    if start is None:
        return Reply(text)
    calls: list[ToolCall] = []
    invalid: list[InvalidCall] = []
    decoder = json.JSONDecoder()
    at = start
    while (at := text.find("{", at)) >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            invalid.append(InvalidCall(text[at:], f"not JSON ({error.msg} at {error.pos - at})"))
            break
        name, arguments = value.get(form.name_key), value.get(form.arguments_key)
        if name in names and isinstance(arguments, dict):
            calls.append(ToolCall(name, arguments))
        else:
            problem = "its arguments are no object" if name in names else f"there is no tool {name!r}"
            invalid.append(InvalidCall(text[at:end], problem, name if isinstance(name, str) else None))
        at = end
    if not calls and not invalid:
        invalid.append(InvalidCall(text[start:], "it holds no JSON object"))
    return Reply(text[:start].rstrip(), calls, invalid)


def calls_start(text: str, form: CallFormat) -> int | None:
    """The index where the calls begin in a reply; None if it has none. A call within a thought does not count."""
    opening = form.opening.strip()
    if opening:
        start = text.find(opening, _thought_end(text, form))
        return start if start >= 0 else None
    stripped = text.lstrip()
    return len(text) - len(stripped) if stripped.startswith("{") else None


def settled_text(text: str, form: CallFormat) -> int:
    """The length of a growing reply that is surely text and no call; 0 if the text does not show where calls open.

    White space at the end does not count yet, because it is left out before a call.
    """
    if form.hidden:
        return 0
    opening = form.opening.strip()
    start = text.find(opening, _thought_end(text, form))
    if start < 0:
        partial = (size for size in range(min(len(opening), len(text)), 0, -1) if text.endswith(opening[:size]))
        start = len(text) - next(partial, 0)
    return len(text[:start].rstrip())


def _thought_end(text: str, form: CallFormat) -> int:
    """The index where the thought ends; 0 if there is no thought, or its end has not come yet."""
    if form.thinks == "begun" or (form.thinks == "may" and text.lstrip().startswith(THOUGHT)):
        end = text.find(THOUGHT_END)
        return 0 if end < 0 else end + len(THOUGHT_END)
    return 0
