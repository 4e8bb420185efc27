"""The form of a model's tool calls, learned from its chat template instead of from a list of models.

The template is asked to render a conversation with made-up tools, calls and results. If all of them appear, the model
was trained on that form, and what stands around the calls' JSON is the form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from semshare_integrations.tools.added_tokens import added_tokens, special_tokens, vocabulary_state
from semshare_integrations.tools.call_format import THOUGHT, THOUGHT_END, CallFormat

_NAME, _KEY, _VALUE, _RESULT = "zqname", "zqkey", "zqvalue", "zqresult"
_ASKED: dict[str, Any] = {"role": "user", "content": "x"}
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A key."}}},
    },
}
_THOUGHT = re.compile(rf"^.*{THOUGHT_END}\s*", re.DOTALL)


def call_format(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    """The form that the model of ``tokenizer`` was trained on, or the generic one."""
    state = (tokenizer.chat_template, vocabulary_state(tokenizer))
    known = _known.get(tokenizer)
    if known is None or known[0] != state:
        known = _known[tokenizer] = (state, _learn(tokenizer))
    return known[1]


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, CallFormat]] = WeakKeyDictionary()


class _NotLearnedError(Exception):
    """The template does not show how calls are written; the message says why, as it goes on behind "because"."""


def _learn(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    if not tokenizer.chat_template:
        return CallFormat(because="the tokenizer has no chat template")
    for count in (2, 1):  # a template may take one call at a time only
        try:
            return _thinking(_rendered_calls(tokenizer, count), tokenizer)
        except _NotLearnedError as error:
            because = str(error)
    return _thinking(CallFormat(system=_has_system(tokenizer), because=because), tokenizer)


def _thinking(form: CallFormat, tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    """``form`` with what is known of thoughts: their marks are added tokens, and the prompt may end within one."""
    if not form.opening.strip() or not {THOUGHT, THOUGHT_END} <= set(added_tokens(tokenizer)):
        return form
    try:
        prompt = _render(tokenizer, [_ASKED], add_generation_prompt=True)
    except _NotLearnedError:
        return form
    return replace(form, thinks="begun" if prompt.rstrip().endswith(THOUGHT) else "may")


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message reaches the prompt: some templates refuse it, some leave it out."""
    try:
        return _VALUE in _render(tokenizer, [{"role": "system", "content": _VALUE}, _ASKED])
    except _NotLearnedError:
        return False


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Raises :class:`_NotLearnedError` if the template refuses ``messages``."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise _NotLearnedError(f"the model's chat template does not take calls and their results ({error})") from error


def _rendered_calls(tokenizer: PreTrainedTokenizerBase, count: int) -> CallFormat:
    """The form as ``count`` calls show it.

    Raises:
        _NotLearnedError: the template leaves out tools, calls or results, or its calls are no JSON objects.
    """
    made = [
        {"type": "function", "id": f"call{at:05}", "function": {"name": _NAME, "arguments": {_KEY: _VALUE + str(at)}}}
        for at in range(count)
    ]
    calls = [_ASKED, {"role": "assistant", "content": "", "tool_calls": made}]
    results = [{"role": "tool", "content": _RESULT, "name": _NAME, "tool_call_id": call["id"]} for call in made]
    before = _render(tokenizer, [_ASKED], tools=[_TOOL], add_generation_prompt=True)
    if _NAME not in before:
        raise _NotLearnedError("the model's chat template tells the model of no tools")
    whole = _render(tokenizer, calls, tools=[_TOOL])
    if _RESULT not in _render(tokenizer, [*calls, *results], tools=[_TOOL]):
        raise _NotLearnedError("the model's chat template leaves out what tools answer")
    said = _render(tokenizer, [_ASKED, {"role": "assistant", "content": _VALUE}], tools=[_TOOL])
    end = said.rpartition(_VALUE)[2]
    same = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    form = _around(whole[same:], count, end, tokenizer)
    if form is None:
        raise _NotLearnedError("the model's chat template writes calls as something else than JSON objects")
    return form


def _around(text: str, count: int, end: str, tokenizer: PreTrainedTokenizerBase) -> CallFormat | None:
    """What stands before, between and behind the ``count`` calls in ``text``, up to the ``end`` of the turn."""
    spans: list[tuple[int, int]] = []
    keys = ("", "")
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0 and len(spans) < count:
        try:
            value, stop = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            value, stop = None, at + 1
        if isinstance(value, dict) and _NAME in value.values():
            arguments = [key for key, held in value.items() if isinstance(held, dict) and _KEY in held]
            if len(arguments) != 1:
                return None
            keys = (next(key for key, held in value.items() if held == _NAME), arguments[0])
            spans.append((at, stop))
        at = text.find("{", stop)
    if len(spans) < count:
        return None
    between = text[spans[0][1] : spans[1][0]] if count > 1 else None
    if between is not None and end.strip() and end.strip() in between:
        between = None  # every call is a turn of its own
    opening = _THOUGHT.sub("", text[: spans[0][0]])
    hidden = any(token in opening for token in special_tokens(tokenizer))
    closing = _before_end(text[spans[-1][1] :], end, tokenizer)
    return CallFormat(opening, between, closing.rstrip("\n") or closing, *keys, native=True, hidden=hidden)


def _before_end(text: str, end: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """``text`` up to where the turn ends: as a turn without calls does, or else at the first special token."""
    if end and text.endswith(end):
        return text.removesuffix(end)
    ends = (text.find(token) for token in special_tokens(tokenizer) if token in text)
    return text[: min(ends, default=len(text))]
