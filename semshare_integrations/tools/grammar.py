"""Grammars of replies, in llguidance's dialect of Lark.

llguidance (the constrained decoder of vLLM, SGLang and llama.cpp) was taken among three kept libraries: xgrammar wants
a just-in-time compiled kernel and cannot say "text, and calls behind it" in one grammar, outlines-core compiles schemas
to regular expressions, which have no recursion. llguidance needs no compilation in advance, tells special tokens from
text, and has one wheel for every Python version.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from semshare_integrations.tools.call_format import CallFormat, Tool, special_tokens

Choice = Literal["auto", "any"] | str
"""``auto``: text, calls, or both · ``any``: at least one call · otherwise the name of the tool to call."""

# as json.dumps writes it, so that a call rendered again in the next turn has the same tokens
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_FORMATS = {
    "date-time": "2000-01-01T00:00:00.000000+00:00",
    "date": "2000-01-01",
    "time": "00:00:00.000000+00:00",
    "duration": "P10DT10H10M10S",
    "email": "abc@abc.abc",
    "hostname": "abc.abc",
    "ipv4": "100.100.100.100",
    "ipv6": "1000:1000:1000:1000:1000:1000:1000:1000",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "uri": "http://abc.abc",
}
"""Formats of strings that llguidance can hold to, and about the longest value that ending one in time comes to."""


def reply_grammar(
    form: CallFormat, tools: Sequence[Tool], choice: Choice, parallel: bool, tokenizer: PreTrainedTokenizerBase
) -> str:
    """A grammar of replies with calls of ``tools``.

    Args:
        form: how the model writes calls.
        tools: OpenAI's function schemas; their parameters are JSON schemas.
        choice: whether, and which, tool must be called.
        parallel: several calls may follow each other, if the form allows.
        tokenizer: names the special tokens that the form may contain.
    """
    functions = [tool["function"] for tool in tools if choice in ("auto", "any", tool["function"]["name"])]
    more = "" if form.between is None or not parallel else f" ({_literal(form.between, tokenizer)} call)*"
    calls = f"call{more} {_literal(form.closing, tokenizer)}"
    lines = ["%llguidance {}"]
    if choice != "auto":
        lines.append(f"start: {_literal(form.opening, tokenizer)} {calls}")
    elif not form.opening:  # a reply that begins as an object does is a call
        lines += [f"start: WORDS | {calls}", r"WORDS: /([^{](.|\n)*)?/"]
    else:
        first, rest = _first_special(form.opening, tokenizer)
        lines += ["start: TEXT | opening " + calls, r"TEXT: /(.|\n)*/"]
        lines.append(f"opening: TEXT {first} {rest}" if first else f"opening[lazy]: TEXT {json.dumps(form.opening)}")
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
    return "\n".join(lines)


def json_grammar(schema: Mapping[str, Any]) -> str:
    """A grammar of JSON of ``schema``, written as ``json.dumps`` writes it."""
    return f"%llguidance {{}}\nstart: %json {json.dumps({**_closed(schema), 'x-guidance': _SPACING})}"


def smallest(schema: Any, root: Mapping[str, Any] | None = None, depth: int = 8) -> Any:
    """About the smallest value of ``schema``: what it takes to bring JSON of that form to an end."""
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    root = schema if root is None else root
    if isinstance(reference := schema.get("$ref"), str):
        found: Any = root
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return smallest(found, root, depth - 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return max((smallest(part, root, depth - 1) for part in schema[several]), key=lambda value: len(str(value)))
    if "const" in schema or schema.get("enum"):
        return schema.get("const", max(schema.get("enum") or [None], key=lambda value: len(str(value))))
    if isinstance(properties := schema.get("properties"), Mapping):
        return {name: smallest(part, root, depth - 1) for name, part in properties.items()}
    if schema.get("type") == "array":
        return [smallest(schema.get("items"), root, depth - 1)] * int(schema.get("minItems", 0))
    if schema.get("type") != "string":
        return 0
    return _FORMATS.get(str(schema.get("format")), "").ljust(int(schema.get("minLength", 0)))


def _closed(schema: Any) -> Any:
    """``schema`` whose objects take no properties but those named, unless it says otherwise: a model invents them.

    Formats that llguidance does not know say nothing of the form (pydantic's "path", "binary", "password"), and whether
    items are unique is for the tool to see to (a set does): it would refuse the whole schema for either.
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
    """``schema`` with the definitions of the arguments' schema at its root, where ``$ref`` looks for them."""
    parameters = dict(schema["properties"][arguments_key])
    for name in ("$defs", "definitions"):
        if name in parameters:
            schema[name] = parameters.pop(name)
    schema["properties"][arguments_key] = parameters
    return {**schema, "x-guidance": _SPACING}


def _first_special(text: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """If ``text`` begins with a special token: that token and the rest, for the grammar."""
    parts = _parts(text, tokenizer)
    if not parts or isinstance(parts[0], str):
        return "", _literal(text, tokenizer)
    return f"<[{parts[0]}]>", " ".join(map(_told, parts[1:]))


def _literal(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    return " ".join(map(_told, _parts(text, tokenizer)))


def _told(part: str | int) -> str:
    return json.dumps(part) if isinstance(part, str) else f"<[{part}]>"


def _parts(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str | int]:
    """``text`` as strings and ids of special tokens, which no text can spell."""
    special = special_tokens(tokenizer)
    if not special:
        return [text] if text else []
    pieces = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text)
    return [special[piece] if piece in special else piece for piece in pieces if piece]  # noqa: SIM401 - two types
