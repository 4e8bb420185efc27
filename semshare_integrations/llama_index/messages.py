"""Convert LlamaIndex's messages to mappings for chat templates, and answers to its blocks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import BaseTool

from semshare_core.errors import ConfigError
from semshare_integrations.adapter.chat_call import call_id, openai_call
from semshare_integrations.adapter.openai_messages import call_arguments
from semshare_integrations.tools import Reply

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def to_template(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Mappings with ``role``, ``content`` (text) and, if the message has them, ``tool_calls`` or a ``tool_call_id``.

    Raises:
        ValueError: content is not text, or a call's arguments are not a JSON object.
    """
    converted: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": _ROLES[message.role], "content": _text(message)}
        if calls := [block for block in message.blocks if isinstance(block, ToolCallBlock)]:
            entry["tool_calls"] = [
                openai_call(call.tool_name, call_arguments(call.tool_name, call.tool_kwargs), call.tool_call_id or "")
                for call in calls
            ]
        if entry["role"] == "tool":
            entry |= {
                "name": message.additional_kwargs.get("name", ""),
                "tool_call_id": message.additional_kwargs.get("tool_call_id"),
            }
        converted.append(entry)
    return converted


def to_openai_tool(tool: BaseTool) -> dict[str, Any]:
    """OpenAI's function schema of a tool. LlamaIndex's own lacks the fields of a recursive class; they are added."""
    if not hasattr(tool, "metadata"):
        raise ConfigError(
            f"{tool!r} is not a LlamaIndex tool: wrap a function by FunctionTool.from_defaults(function)."
        )
    schema = tool.metadata.to_openai_tool(skip_length_check=True)
    parameters = schema["function"]["parameters"]
    if "type" not in parameters and tool.metadata.fn_schema is not None:
        reference = str(tool.metadata.fn_schema.model_json_schema().get("$ref", "")).removeprefix("#/$defs/")
        schema["function"]["parameters"] = {**parameters["$defs"][reference], **parameters}
    return schema


def message_of(reply: Reply) -> ChatMessage:
    """The message of an answer, with its text and calls. Unreadable calls stay text if there are no others.

    ``additional_kwargs`` also has the calls in OpenAI's form, because LlamaIndex reads them there when it streams
    objects.
    """
    parts = [reply.text] if reply.calls else [reply.text, *(bad.text for bad in reply.invalid)]
    text = "\n".join(part for part in parts if part)
    blocks: list[ContentBlock] = [TextBlock(text=text)] if text or not reply.calls else []
    listed = []
    for call in reply.calls:
        name = call_id()
        blocks.append(ToolCallBlock(tool_call_id=name, tool_name=call.name, tool_kwargs=call.arguments))
        listed.append(openai_call(call.name, json.dumps(call.arguments, ensure_ascii=False), name))
    extra = {"tool_calls": listed} if listed else {}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra)


def _text(message: ChatMessage) -> str:
    """The message's text, with that of citable documents. Thoughts, calls, citations and cache points are left out."""
    parts: list[str] = []
    goes_on = False  # citations split an assistant's sentence into blocks
    for block in message.blocks:
        if isinstance(block, CitableBlock):
            parts += [_text_of_block(message, inner) for inner in block.content]
        elif isinstance(block, ToolCallBlock | ThinkingBlock | CachePoint | CitationBlock):
            goes_on &= isinstance(block, CitationBlock)
            continue
        elif goes_on:
            parts[-1] += _text_of_block(message, block)
        else:
            parts.append(_text_of_block(message, block))
        goes_on = _ROLES[message.role] == "assistant"
    return "\n".join(parts)


def _text_of_block(message: ChatMessage, block: ContentBlock) -> str:
    if isinstance(block, TextBlock):
        return block.text
    raise ValueError(
        f"a {message.role.value} message has a {type(block).__name__}, but the model reads only text: leave the block "
        "out or describe it in words."
    )
