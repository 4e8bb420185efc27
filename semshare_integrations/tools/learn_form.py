"""Learn the form of a model's tool calls from its chat template. No list of models is needed.

The template renders a conversation with invented tools, calls and results. If all of them appear, the model was trained
on that form. The form is the text around the calls' JSON.
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
_USER: dict[str, Any] = {"role": "user", "content": "x"}
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
    """The form that the tokenizer's model was trained on, or our own."""
    state = (tokenizer.chat_template, vocabulary_state(tokenizer))
    learned = _learned.get(tokenizer)
    if learned is None or learned[0] != state:
        learned = _learned[tokenizer] = (state, _learn(tokenizer))
    return learned[1]


_learned: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, CallFormat]] = WeakKeyDictionary()


class _NotLearnedError(Exception):
    """The template does not show how calls are written. The message is the reason, without "because"."""


def _learn(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    if not tokenizer.chat_template:
        return CallFormat(because="the tokenizer has no chat template")
    for count in (2, 1):  # some templates take only one call at a time
        try:
            return _thinking(_rendered_calls(tokenizer, count), tokenizer)
        except _NotLearnedError as error:
            because = str(error)
    return _thinking(CallFormat(system=_has_system(tokenizer), because=because), tokenizer)


def _thinking(form: CallFormat, tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    """``form`` with ``thinks``: the model can think if the marks are added tokens. The prompt may begin a thought."""
    if not form.opening.strip() or not {THOUGHT, THOUGHT_END} <= set(added_tokens(tokenizer)):
        return form
    try:
        prompt = _render(tokenizer, [_USER], add_generation_prompt=True)
    except _NotLearnedError:
        return form
    return replace(form, thinks="begun" if prompt.rstrip().endswith(THOUGHT) else "may")


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template renders a system message. Some refuse it, some leave it out."""
    try:
        return _VALUE in _render(tokenizer, [{"role": "system", "content": _VALUE}, _USER])
    except _NotLearnedError:
        return False


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """Render ``messages``. Raises :class:`_NotLearnedError` if the template refuses them."""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise _NotLearnedError(f"the model's chat template does not take calls and their results ({error})") from error


def _rendered_calls(tokenizer: PreTrainedTokenizerBase, count: int) -> CallFormat:
    """The form of ``count`` rendered calls.

    Raises:
        _NotLearnedError: the template leaves out tools, calls or results, or its calls are not JSON objects.
    """
    invented = [
        {"type": "function", "id": f"call{at:05}", "function": {"name": _NAME, "arguments": {_KEY: _VALUE + str(at)}}}
        for at in range(count)
    ]
    calls = [_USER, {"role": "assistant", "content": "", "tool_calls": invented}]
    results = [{"role": "tool", "content": _RESULT, "name": _NAME, "tool_call_id": call["id"]} for call in invented]
    before = _render(tokenizer, [_USER], tools=[_TOOL], add_generation_prompt=True)
    if _NAME not in before:
        raise _NotLearnedError("the model's chat template tells the model of no tools")
    whole = _render(tokenizer, calls, tools=[_TOOL])
    if _RESULT not in _render(tokenizer, [*calls, *results], tools=[_TOOL]):
        raise _NotLearnedError("the model's chat template leaves out what tools answer")
    words = _render(tokenizer, [_USER, {"role": "assistant", "content": _VALUE}], tools=[_TOOL])
    end = words.rpartition(_VALUE)[2]
    same = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    form = _around(whole[same:], count, end, tokenizer)
    if form is None:
        raise _NotLearnedError("the model's chat template writes calls as something else than JSON objects")
    return form


def _around(text: str, count: int, end: str, tokenizer: PreTrainedTokenizerBase) -> CallFormat | None:
    """The text before, between and after the ``count`` calls in ``text``, up to the ``end`` of the message."""
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
            arguments = [key for key, item in value.items() if isinstance(item, dict) and _KEY in item]
            if len(arguments) != 1:
                return None
            keys = (next(key for key, item in value.items() if item == _NAME), arguments[0])
            spans.append((at, stop))
        at = text.find("{", stop)
    if len(spans) < count:
        return None
    between = text[spans[0][1] : spans[1][0]] if count > 1 else None
    if between is not None and end.strip() and end.strip() in between:
        between = None  # each call is a separate message
    opening = _THOUGHT.sub("", text[: spans[0][0]])
    hidden = any(token in opening for token in special_tokens(tokenizer))
    closing = _before_end(text[spans[-1][1] :], end, tokenizer)
    return CallFormat(opening, between, closing.rstrip("\n") or closing, *keys, native=True, hidden=hidden)


def _before_end(text: str, end: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """``text`` without the end of the message: the ``end`` of a message without calls, or the first special token."""
    if end and text.endswith(end):
        return text.removesuffix(end)
    ends = (text.find(token) for token in special_tokens(tokenizer) if token in text)
    return text[: min(ends, default=len(text))]
