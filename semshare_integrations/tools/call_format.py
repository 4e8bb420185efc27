"""How a model writes tool calls: the text around their JSON.

For a template without tools we use our own form. The system message describes the tools (or the user's first message,
where the template has no system message, as Gemma's). Calls are written as by Hermes and Qwen. A user's message has the
results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
Tool = Mapping[str, Any]

THOUGHT, THOUGHT_END = "<think>", "</think>"
"""A model that was trained to think does so between these before it answers."""

_INTRODUCTION = """You can use these tools:
<tools>
{tools}
</tools>

To use one, answer with its name and arguments as JSON between <tool_call> and </tool_call>, like this:
<tool_call>
{{"name": "tool_name", "arguments": {{"parameter": "value"}}}}
</tool_call>
You will be told the result between <tool_response> and </tool_response>. Then answer the question with it."""

_AFTER_RESULTS = "\nNow answer my question in words."  # otherwise an untrained model repeats the result's tags


@dataclass(frozen=True)
class CallFormat:
    """The text around the calls in a reply. Each call is a JSON object.

    Attributes:
        opening: the text before the first call, for example ``<tool_call>`` and a line break.
        between: the text between two calls; None: the model makes one call at a time.
        closing: the text after the last call.
        name_key: the key of the tool's name in the object.
        arguments_key: the key of the arguments, which are an object.
        native: the template itself renders tools, calls and results.
        hidden: the opening has special tokens, which a reply's text leaves out.
        system: the template has a system message.
        thinks: ``may``: a reply may begin with a thought · ``begun``: the prompt has begun one.
        because: the reason why the form is ours; empty if it is the model's.
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
        """A sentence for the user: how the model sees tools and calls them."""
        if not self.native:
            how = "in words and called between <tool_call> and </tool_call>"
            return f"Tools are described {how}, because {self.because}."
        marks = f"between {self.opening!r} and {self.closing!r}" if self.opening else "as bare JSON"
        return f"Tools are described and called as the model's chat template does it: it writes calls {marks}."

    def write(self, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
        """Write calls, each a name and its arguments, as the model writes them."""
        objects = [
            json.dumps({self.name_key: name, self.arguments_key: arguments}, ensure_ascii=False)
            for name, arguments in calls
        ]
        return self.opening + (self.between or "\n").join(objects) + self.closing

    def messages(self, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
        """``messages`` for the template. If it knows no tools, they are described in words."""
        return list(messages) if self.native else _in_words(self, messages, tools)


def _in_words(form: CallFormat, messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """Tools go into the system message or the user's first, calls into the assistant's text, results to the user."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message.get("content") or ""
        if role == "assistant" and message.get("tool_calls"):
            functions = [call["function"] for call in message["tool_calls"]]
            written = form.write([(function["name"], function["arguments"]) for function in functions])
            plain.append({"role": role, "content": "\n".join(part for part in (content, written) if part)})
        elif role == "tool":
            result = f"<tool_response>\n{content}\n</tool_response>"
            if plain and plain[-1]["role"] == "user" and plain[-1]["content"].endswith(_AFTER_RESULTS):
                result = f"{plain.pop()['content'].removesuffix(_AFTER_RESULTS)}\n{result}"  # one message for all
            plain.append({"role": "user", "content": result + _AFTER_RESULTS})
        else:
            plain.append({"role": role, "content": content})
    if not tools:
        return list(plain)
    described = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=described)
    if plain and plain[0]["role"] == "system":
        plain[0]["content"] = f"{plain[0]['content']}\n\n{introduction}".strip()
    elif form.system:
        plain.insert(0, {"role": "system", "content": introduction})
    elif plain and plain[0]["role"] == "user":
        plain[0]["content"] = f"{introduction}\n\n{plain[0]['content']}"
    else:
        plain.insert(0, {"role": "user", "content": introduction})
    return list(plain)
