"""How a model writes tool calls, learned from its chat template instead of from a list of models.

The template is asked to render a conversation with made-up tools, calls and results. If all of them appear, the model
was trained on that form, and what stands around the calls' JSON is the form. A template that knows no tools gets ours:
the tools are described in the system message (in the user's first where there is none, as in Gemma's), calls are
written as Hermes and Qwen write them, results are told by the user.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

_NAME, _KEY, _VALUE, _RESULT = "zqname", "zqkey", "zqvalue", "zqresult"
_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "A tool.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "A key."}}},
    },
}
_THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)

_INTRODUCTION = """You can use these tools:
<tools>
{tools}
</tools>

To use one, answer with its name and arguments as JSON between <tool_call> and </tool_call>, like this:
<tool_call>
{{"name": "tool_name", "arguments": {{"parameter": "value"}}}}
</tool_call>
You will be told the result between <tool_response> and </tool_response>. Then answer the question with it."""

_AFTER_RESULTS = "\nNow answer my question in words."  # or a model that never learned tools repeats the result's tags


@dataclass(frozen=True)
class CallFormat:
    """What stands around the JSON objects of the calls in a reply.

    Attributes:
        opening: before the first.
        between: from one to the next; None: the model makes one call at a time.
        closing: behind the last.
        name_key: where an object holds the tool's name.
        arguments_key: where it holds the arguments, an object.
        native: the template renders tools, calls and results by itself.
        hidden: the opening has special tokens, which the text of a reply leaves out.
        system: the template has a system message, for tools that are told in words.
    """

    opening: str = "<tool_call>\n"
    between: str | None = "\n</tool_call>\n<tool_call>\n"
    closing: str = "\n</tool_call>"
    name_key: str = "name"
    arguments_key: str = "arguments"
    native: bool = False
    hidden: bool = False
    system: bool = True

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """The calls, each a name and its arguments, as the model writes them."""
        objects = [
            json.dumps({self.name_key: name, self.arguments_key: arguments}, ensure_ascii=False)
            for name, arguments in calls
        ]
        return self.opening + (self.between or "\n").join(objects) + self.closing

    def messages(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """``messages`` as the template takes them: as they are if it knows tools, told in words otherwise."""
        return list(messages) if self.native else _told_in_words(self, messages, tools)


def call_format(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    """The form that the model of ``tokenizer`` was trained on, or the generic one."""
    known = _known.get(tokenizer)
    if known is None or known[0] != tokenizer.chat_template:
        known = _known[tokenizer] = (tokenizer.chat_template, _learn(tokenizer))
    return known[1]


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Any, CallFormat]] = WeakKeyDictionary()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the tokens that no text can spell and that decoding to text leaves out."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def _learn(tokenizer: PreTrainedTokenizerBase) -> CallFormat:
    try:
        two = _rendered_calls(tokenizer, 2)
        one = _rendered_calls(tokenizer, 1) if two is None else None
    except (TemplateError, TypeError, KeyError, ValueError):
        two = one = None
    return two or one or CallFormat(system=_has_system(tokenizer))


def _has_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a system message reaches the prompt: some templates refuse it, some leave it out."""
    messages = [{"role": "system", "content": _VALUE}, {"role": "user", "content": "x"}]
    try:
        return _VALUE in str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, KeyError, ValueError):
        return False


def _rendered_calls(tokenizer: PreTrainedTokenizerBase, count: int) -> CallFormat | None:
    """The format as ``count`` calls show it; None if the template leaves out tools, calls or results."""

    def render(messages: list[dict[str, Any]], **options: Any) -> str:
        return str(tokenizer.apply_chat_template(messages, tools=[_TOOL], tokenize=False, **options))

    asked: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    made = [
        {"type": "function", "id": f"call{at:05}", "function": {"name": _NAME, "arguments": {_KEY: _VALUE + str(at)}}}
        for at in range(count)
    ]
    calls = [*asked, {"role": "assistant", "content": "", "tool_calls": made}]
    results = [{"role": "tool", "content": _RESULT, "name": _NAME, "tool_call_id": call["id"]} for call in made]
    before = render(asked, add_generation_prompt=True)
    try:
        whole = render(calls)
        told = render([*calls, *results])
    except TemplateError:
        return None  # "only one call at a time", or no tool role
    if _NAME not in before or _RESULT not in told:
        return None
    same = next((at for at, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
    return _around(_THOUGHT.sub("", whole[same:]), count, list(special_tokens(tokenizer)))


def _around(text: str, count: int, specials: Sequence[str]) -> CallFormat | None:
    """What stands before, between and behind the ``count`` calls in ``text``, up to the end of the turn."""
    spans: list[tuple[int, int]] = []
    keys = ("", "")
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0 and len(spans) < count:
        try:
            value, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            value, end = None, at + 1
        if isinstance(value, dict) and _NAME in value.values():
            arguments = [key for key, held in value.items() if isinstance(held, dict) and _KEY in held]
            if len(arguments) != 1:
                return None
            keys = (next(key for key, held in value.items() if held == _NAME), arguments[0])
            spans.append((at, end))
        at = text.find("{", end)
    if len(spans) < count:
        return None
    closing = text[spans[-1][1] :]
    closing = closing[: min((closing.find(token) for token in specials if token in closing), default=len(closing))]
    between = text[spans[0][1] : spans[1][0]] if count > 1 else None
    opening = text[: spans[0][0]]
    hidden = any(token in opening for token in specials)
    return CallFormat(opening, between, closing.rstrip("\n") or closing, *keys, native=True, hidden=hidden)


def _told_in_words(form: CallFormat, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Tools in the system message or the user's first, calls in the assistant's text, results in the user's."""
    told: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "assistant" and message.get("tool_calls"):
            functions = [call["function"] for call in message["tool_calls"]]
            written = form.write([(function["name"], function["arguments"]) for function in functions])
            told.append({"role": role, "content": "\n".join(part for part in (content, written) if part)})
        elif role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if told and told[-1]["role"] == "user" and told[-1]["content"].endswith(_AFTER_RESULTS):
                result = f"{told.pop()['content'].removesuffix(_AFTER_RESULTS)}\n{result}"  # one message for all
            told.append({"role": "user", "content": result + _AFTER_RESULTS})
        else:
            told.append({"role": role, "content": content})
    if not tools:
        return list(told)
    described = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=described)
    if told and told[0]["role"] == "system":
        told[0]["content"] = f"{told[0]['content']}\n\n{introduction}".strip()
    elif form.system:
        told.insert(0, {"role": "system", "content": introduction})
    elif told and told[0]["role"] == "user":
        told[0]["content"] = f"{introduction}\n\n{told[0]['content']}"
    else:
        told.insert(0, {"role": "user", "content": introduction})
    return list(told)
