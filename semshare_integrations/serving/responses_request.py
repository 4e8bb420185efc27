"""OpenAI's request for a response, and its input as messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, FailFast, Field

from semshare_integrations.serving.parsing import Strict, TextOrObjects, invalid
from semshare_integrations.serving.requests import Common

_UNSUPPORTED = {
    "previous_response_id": "this server keeps no conversation: send all items as input",
    "conversation": "this server keeps no conversation: send all items as input",
    "background": "answers are waited for",
    "prompt": "this server has no prompt templates",
    "max_tool_calls": "tools are the client's to run, and to count",
    "top_logprobs": "log probabilities come with /v1/chat/completions",
}


class FlatFunction(Strict):
    """A tool, as responses have it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["function"]
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None

    def nested(self) -> dict[str, Any]:
        """The same tool, as chat completions have it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"}, exclude_none=True)}


class TextFormat(Strict):
    """OpenAI's ``text``."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None

    def response_format(self) -> dict[str, Any] | None:
        """The format, as chat completions have it."""
        if self.format is None or self.format.get("type") != "json_schema":
            return self.format
        return {"type": "json_schema", "json_schema": self.format}


class ResponsesRequest(Common):
    """OpenAI's request for a response, in its common subset."""

    input: TextOrObjects = Field(min_length=1)
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    tools: Annotated[list[FlatFunction], FailFast()] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = False
    text: TextFormat = TextFormat()
    truncation: Literal["disabled"] = "disabled"
    # refused
    previous_response_id: Any = None
    conversation: Any = None
    background: bool = False
    prompt: Any = None
    max_tool_calls: Any = None
    top_logprobs: int | None = None
    # hints
    include: Annotated[list[str], Field(max_length=64)] | None = None
    reasoning: Any = None
    store: bool | None = None
    stream_options: Any = None

    def check(self) -> None:
        """Raises :class:`RequestError` for what this server does not have."""
        for name, why in _UNSUPPORTED.items():
            if getattr(self, name):
                raise invalid(f"{name} is not supported: {why}.", name, "unsupported_parameter")

    def messages(self) -> list[dict[str, Any]]:
        """The input as messages of a chat completion.

        Raises:
            ValueError: an item is of an unknown kind.
        """
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        return [*messages, *_messages_of(self.input)]


def _messages_of(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": item.get("content")})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            messages[-1].setdefault("tool_calls", []).append({"id": item.get("call_id"), "function": function})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")})
        elif kind != "reasoning":  # thoughts are not read again
            raise ValueError(f"input[{number}] is of type {kind!r}: send messages, function calls and their outputs.")
    return messages
