"""How a model writes tool calls: what stands around their JSON.

A template that knows no tools gets our form: the tools are described in the system message (in the user's first where
there is none, as in Gemma's), calls are written as Hermes and Qwen write them, results are told by the user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

THOUGHT, THOUGHT_END = "<think>", "</think>"
"""Between these a model thinks before it answers, if it was trained to."""

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
        thinks: whether a reply may begin with a thought, or goes on with one that the prompt has begun.
        because: why the form is not the model's own, if it is not.
    """

    opening: str = "<tool_call>\n"
    between: str | None = "\n</tool_call>\n<tool_call>\n"
    closing: str = "\n</tool_call>"
    name_key: str = "name"
    arguments_key: str = "arguments"
    native: bool = False
    hidden: bool = False
    system: bool = True
    thinks: Literal["never", "may", "begun"] = "never"
    because: str = field(default="", compare=False)

    @property
    def description(self) -> str:
        """A sentence for the user: how the model is told of tools, and how it calls them."""
        if self.native:
            calls = (
                f"calls stand between {self.opening!r} and {self.closing!r}" if self.opening else "calls are bare JSON"
            )
            return f"Tools are told and called as the model's chat template does it: {calls}."
        return f"Tools are described in words and called between <tool_call> and </tool_call>, because {self.because}."

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
