"""Anthropic's request for a message, and its messages in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, FailFast, Field, model_validator

from semshare_core import SemShareEngine
from semshare_integrations.adapter.content import Block, text_of
from semshare_integrations.serving.keys import Caller
from semshare_integrations.serving.parsing import Strict, TextOrObjects
from semshare_integrations.serving.requests import Common, check_count


class ClientTool(Strict):
    """A tool that the client runs."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["custom"] = "custom"
    name: str = Field(min_length=1)
    description: str | None = None
    input_schema: dict[str, Any]

    def openai(self) -> dict[str, Any]:
        """The tool in OpenAI's form."""
        function = self.model_dump(include={"name", "description"}, exclude_none=True)
        return {"type": "function", "function": {**function, "parameters": self.input_schema}}


class ToolChoice(Strict):
    """Which tool the model must call."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = True

    @model_validator(mode="after")
    def _names_a_tool(self) -> ToolChoice:
        if self.type == "tool" and not self.name:
            raise ValueError("of type 'tool' it must have the tool's name")
        return self


class OutputConfig(Strict):
    """Anthropic's ``output_config``."""

    effort: str | None = None  # a hint
    format: dict[str, Any] | None = None

    def response_format(self) -> dict[str, Any] | None:
        """The format in OpenAI's form."""
        if self.format is None:
            return None
        return {"type": self.format.get("type"), "json_schema": {"schema": self.format.get("schema")}}


class Turn(Strict):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: TextOrObjects


class CountRequest(Common):
    """What both of Anthropic's requests have: a chat with tools."""

    messages: Annotated[list[Turn], FailFast()] = Field(min_length=1)
    system: TextOrObjects | None = None
    tools: Annotated[list[ClientTool], FailFast()] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig = OutputConfig()
    # hints; a model thinks as its template says
    thinking: Any = None
    inference_geo: str | None = None
    speed: str | None = None

    def check(self, engine: SemShareEngine) -> None:
        """Raises :class:`RequestError` for what cannot fit."""
        check_count(self.messages, engine, "messages")

    def openai_messages(self) -> list[dict[str, Any]]:
        """The messages in OpenAI's form.

        Raises:
            ValueError: a block is of an unknown kind, or has not what it must have.
        """
        messages: list[dict[str, Any]] = []
        if self.system:
            messages.append({"role": "system", "content": text_of(self.system, "system")})
        for turn in self.messages:
            blocks: list[Any] = [turn.content] if isinstance(turn.content, str) else turn.content
            if turn.role == "assistant":
                messages.append(_assistants(blocks))
            else:
                messages += _users(turn.role, blocks)
        return messages


class MessagesRequest(CountRequest):
    """Anthropic's request for a message, in its common subset."""

    max_tokens: int = Field(ge=1)
    stop_sequences: list[str] = Field(default_factory=list, max_length=64)

    def engine_settings(self, engine: SemShareEngine, caller: Caller, max_new_tokens: int) -> dict[str, Any]:
        """Settings of :meth:`SemShareEngine.stream`."""
        return {**super().engine_settings(engine, caller, max_new_tokens), "stop": self.stop_sequences}


def _assistants(blocks: list[Block]) -> dict[str, Any]:
    """Text and calls; thoughts are not read again."""
    calls = [
        {"id": block.get("id"), "function": {"name": block.get("name"), "arguments": block.get("input")}}
        for block in blocks
        if isinstance(block, Mapping) and block.get("type") == "tool_use"
    ]
    return {"role": "assistant", "content": blocks, "tool_calls": calls}


def _users(role: str, blocks: list[Block]) -> list[dict[str, Any]]:
    """Results of tools are messages of their own, before what the user says."""
    results, said = [], []
    for block in blocks:
        if isinstance(block, Mapping) and block.get("type") == "tool_result":
            content = block.get("content") or ""
            results.append({"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": content})
        else:
            said.append(block)
    return [*results, {"role": role, "content": said}] if said or not results else results
