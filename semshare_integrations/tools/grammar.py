"""Grammars of replies, in llguidance's dialect of Lark.

We chose llguidance (vLLM, SGLang and llama.cpp use it) from three libraries. xgrammar compiles a kernel at run time,
and one grammar cannot describe text that is followed by calls. outlines-core compiles schemas to regular expressions,
which have no recursion. llguidance needs no compilation, distinguishes special tokens from text, and has one wheel for
all Python versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from semshare_integrations.tools.added_tokens import added_tokens, parts, special_tokens
from semshare_integrations.tools.call_format import THOUGHT, THOUGHT_END, CallFormat, Tool

Choice = Literal["auto", "any"] | str
"""``auto``: text, calls, or both · ``any``: at least one call · otherwise the name of the tool to call."""

# as json.dumps writes it, so that the next prompt, which renders the call again, has the same tokens
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_FORMATS = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""The string formats that llguidance knows."""


@dataclass(frozen=True)
class Grammar:
    """A grammar. ``tags`` are the added tokens that end its free text."""

    text: str
    tags: tuple[int, ...] = ()


def reply_grammar(
    form: CallFormat, tools: Sequence[Tool], choice: Choice, parallel: bool, tokenizer: PreTrainedTokenizerBase
) -> Grammar:
    """A grammar of replies with calls of ``tools``.

    It names added tokens in the form as tokens, because a trained model writes them as tokens. Free text may contain
    all tokens, also special ones, except those that end a reply or open a call.

    Args:
        form: how the model writes calls.
        tools: OpenAI's function schemas. Their parameters are JSON schemas.
        choice: which tool the model must call, if any.
        parallel: allow several calls, if the form allows them.
        tokenizer: has the added tokens.
    """
    added, special = added_tokens(tokenizer), special_tokens(tokenizer)
    functions = [tool["function"] for tool in tools if choice in ("auto", "any", tool["function"]["name"])]
    more = "" if form.between is None or not parallel else f" ({_literal(form.between, added)} call)*"
    calls = f"call{more} {_literal(form.closing, added)}"
    lines = ["%llguidance {}", r"TEXT: /(.|\n)+/", r"ANY: /(.|\n)*/"]
    opening = parts(form.opening, added)
    tags = [part for part in opening if isinstance(part, int)]
    if choice != "auto":
        thought = _thought(form, added, special)
        begin = {"never": "", "may": "thought? ", "begun": "thought "}[form.thinks]
        lines += [f"start: {begin}{_named(opening)} {calls}", *thought]
        tags = [added[THOUGHT_END], *tags] if thought else tags  # first, because a thought may contain the others
    elif not form.opening.strip():  # a reply that begins like an object is a call
        lines += [f"start: (WORDS ({_text(special, tokenizer)})*)? | {calls}"]
        lines += [r"WORDS: /[ \t\r\n]*[^ \t\r\n{](.|\n)*/"]
    else:
        first, rest = _trigger(opening)
        if first in special.values():
            lines += [f"start: text | text <[{first}]> {_named(rest)} {calls}"]
            lines += [f"text: ({_text(special, tokenizer, first)})*"]
        else:
            lines += [f"start: text | text opening {_named(rest)} {calls}"]
            lines += [f"text: ({_text(special, tokenizer)})*"]
            mark = first if isinstance(first, str) else next(name for name, token in added.items() if token == first)
            lines += [f"opening[lazy]: ANY {json.dumps(mark)}"]
    lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(functions))))
    for number, function in enumerate(functions):
        schema = {
            "type": "object",
            "properties": {
                form.name_key: {"const": function["name"]},
                form.arguments_key: _closed(function.get("parameters") or {"type": "object", "properties": {}}),
            },
            "required": [form.name_key, form.arguments_key],
            "additionalProperties": False,
        }
        lines.append(f"call_{number}: %json {json.dumps(_placed(schema, form.arguments_key))}")
    return Grammar("\n".join(lines), tuple(tags))


def json_grammar(schema: Mapping[str, Any]) -> Grammar:
    """A grammar of JSON that matches ``schema``, as ``json.dumps`` writes it."""
    return Grammar(f"%llguidance {{}}\nstart: %json {json.dumps({**_closed(schema), 'x-guidance': _SPACING})}")


def _closed(schema: Any) -> Any:
    """``schema`` whose objects have only the named properties, unless it allows others. A model would invent some.

    Formats that llguidance does not know (pydantic's "path", "binary", "password") and ``uniqueItems`` are removed,
    because llguidance would refuse the whole schema. The tool must check them.
    """
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _closed(part) for name, part in value.items()}
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict)
        else _closed(value)
        if key in ("items", "anyOf", "oneOf", "allOf", "prefixItems", "additionalProperties")
        else value
        for key, value in schema.items()
        if key != "uniqueItems" and (key != "format" or value in _FORMATS)
    }
    if "properties" in closed and "allOf" not in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _placed(schema: dict[str, Any], arguments_key: str) -> dict[str, Any]:
    """``schema`` with the arguments' definitions at its root, where ``$ref`` finds them."""
    parameters = dict(schema["properties"][arguments_key])
    for name in ("$defs", "definitions"):
        if name in parameters:
            schema[name] = parameters.pop(name)
    schema["properties"][arguments_key] = parameters
    return {**schema, "x-guidance": _SPACING}


def _thought(form: CallFormat, added: Mapping[str, int], special: Mapping[str, int]) -> list[str]:
    """The rules of a thought before a required call; none if the model was not trained to think."""
    if form.thinks == "never":
        return []
    begin = "" if form.thinks == "begun" else f"<[{added[THOUGHT]}]> "
    end = f"TEXT? <[{special[THOUGHT_END]}]>" if THOUGHT_END in special else "thinking"
    lines = [f"thought: {begin}{end} LINES?", r"LINES: /\n{1,4}/"]
    return lines if THOUGHT_END in special else [*lines, f"thinking[lazy]: ANY {json.dumps(THOUGHT_END)}"]


def _trigger(opening: Sequence[str | int]) -> tuple[str | int, Sequence[str | int]]:
    """The part of the opening that marks a call, without white space, and the rest of the opening."""
    if isinstance(opening[0], str) and not opening[0].strip() and len(opening) > 1:
        opening = opening[1:]
    first, rest = opening[0], opening[1:]
    if isinstance(first, int):
        return first, rest
    space = first[len(first.rstrip()) :]
    return first.strip(), [space, *rest] if space else rest


def _text(special: Mapping[str, int], tokenizer: PreTrainedTokenizerBase, *but: str | int) -> str:
    """The grammar's symbol for free text: words, and all special tokens ``but`` some."""
    others = sorted(token for token in special.values() if token not in (*but, tokenizer.eos_token_id))
    return f"TEXT | <[{','.join(map(str, others))}]>" if others else "TEXT"


def _literal(text: str, added: Mapping[str, int]) -> str:
    return _named(parts(text, added))


def _named(several: Sequence[str | int]) -> str:
    return " ".join(json.dumps(part) if isinstance(part, str) else f"<[{part}]>" for part in several)
