"""Convert LangChain's messages to mappings for chat templates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from semshare_integrations.adapter.chat_call import openai_call

_TEXT = ("text", "text-plain", "output_text", "input_text")
_MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "input_audio",
    "video",
    "file",
    "input_file",
    "document",
    "media",
)


def to_template(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Mappings with ``role``, ``content`` (text) and, if the message has them, ``tool_calls`` or a ``tool_call_id``.

    Raises:
        ValueError: content is not text, or chat templates do not know the kind of message.
    """
    converted: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": _role(message), "content": _text(message)}
        if isinstance(message, AIMessage) and message.tool_calls:
            entry["tool_calls"] = [
                openai_call(call["name"], call["args"], call["id"] or "") for call in message.tool_calls
            ]
        elif isinstance(message, ToolMessage):
            entry |= {"name": message.name or "", "tool_call_id": message.tool_call_id}
        converted.append(entry)
    return converted


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in (
        (SystemMessage, "system"),
        (HumanMessage, "user"),
        (AIMessage, "assistant"),
        (ToolMessage, "tool"),
    ):
        if isinstance(message, kind):
            return role
    raise ValueError(f"chat templates know no {type(message).__name__}: use a system, human, AI or tool message.")


def _text(message: BaseMessage) -> str:
    content = message.content
    if isinstance(message, AIMessage):
        return _assistant_text(message)
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        text = _text_of_block(block)
        if text is not None:
            parts.append(text)
        elif isinstance(message, ToolMessage) and _kind(block) not in _MEDIA:
            parts.append(json.dumps(block, ensure_ascii=False))
        else:
            raise _refused(message, block)
    return "\n".join(parts)


def _assistant_text(message: AIMessage) -> str:
    """The text of an assistant's message, also of another provider's.

    Other blocks are left out: thoughts, tools that the provider ran, and calls, which ``tool_calls`` has. A refusal
    counts as text if there is no other.
    """
    blocks = [message.content] if isinstance(message.content, str) else message.content
    parts: list[str] = []
    goes_on = False  # citations split a sentence into blocks
    refusal = message.additional_kwargs.get("refusal")
    for block in blocks:
        text = _text_of_block(block)
        if text is None and _kind(block) in _MEDIA:
            raise _refused(message, block)
        if isinstance(block, dict) and _kind(block) == "refusal":
            refusal = block.get("refusal")
        if text is not None and goes_on:
            parts[-1] += text
        elif text:
            parts.append(text)
        goes_on = text is not None and bool(parts)
    return "\n".join(parts) or (refusal if isinstance(refusal, str) else "")


def _kind(block: str | dict[str, Any]) -> Any:
    return "text" if isinstance(block, str) else block.get("type")


def _text_of_block(block: str | dict[str, Any]) -> str | None:
    """The text of a text block; None for another kind. Some providers leave the type out."""
    if isinstance(block, str):
        return block
    text = block.get("text")
    if _kind(block) in _TEXT or (_kind(block) is None and isinstance(text, str)):
        return text or ""
    return None


def _refused(message: BaseMessage, block: str | dict[str, Any]) -> ValueError:
    return ValueError(
        f"the content of a {type(message).__name__} has a block of type {_kind(block)!r}, but the model reads only "
        "text: leave the block out or describe it in words."
    )
