"""What a reply says: text, calls of tools, and calls that cannot be read."""

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
    """What looks like a call and is none: the text, and what is wrong with it."""

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
    """Read a reply, special tokens included, whose calls may name the tools ``names``.

    A reply that was cut off within a call, by a limit of tokens, has that call among the invalid ones.
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
    """Where the calls begin in a reply; None if it has none. A call that a thought mentions is none."""
    opening = form.opening.strip()
    if opening:
        found = text.find(opening, _thought_end(text, form))
        return found if found >= 0 else None
    stripped = text.lstrip()
    return len(text) - len(stripped) if stripped.startswith("{") else None


def settled_text(text: str, form: CallFormat) -> int:
    """How much of a growing reply is surely text and begins no call; 0 if text does not show where calls open.

    White space waits for what follows: before a call it is left out.
    """
    if form.hidden:
        return 0
    opening = form.opening.strip()
    found = text.find(opening, _thought_end(text, form))
    if found < 0:
        begun = (size for size in range(min(len(opening), len(text)), 0, -1) if text.endswith(opening[:size]))
        found = len(text) - next(begun, 0)
    return len(text[:found].rstrip())


def _thought_end(text: str, form: CallFormat) -> int:
    """Where what is thought before the answer ends; 0 if nothing is, or no end is there yet."""
    if form.thinks == "begun" or (form.thinks == "may" and text.lstrip().startswith(THOUGHT)):
        end = text.find(THOUGHT_END)
        return 0 if end < 0 else end + len(THOUGHT_END)
    return 0
