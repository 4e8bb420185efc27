"""LangChain's messages as the mappings that chat templates take."""

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

from semshare_integrations.adapter.turn import told_call

_WITHOUT_TEXT = (
    "tool_use",
    "tool_call",
    "tool_call_chunk",
    "invalid_tool_call",
    "function_call",
    "reasoning",
    "thinking",
)
"""Blocks of an answer that say nothing more than its tool calls do, or what other models thought to themselves."""


def to_template(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Mappings with ``role``, ``content`` (text) and, where there are some, ``tool_calls`` or a ``tool_call_id``.

    Raises:
        ValueError: content that is not text, or a kind of message that chat templates do not know.
    """
    told: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": _role(message), "content": _text(message)}
        if isinstance(message, AIMessage) and message.tool_calls:
            entry["tool_calls"] = [
                told_call(call["name"], call["args"], call["id"] or "") for call in message.tool_calls
            ]
        elif isinstance(message, ToolMessage):
            entry |= {"name": message.name or "", "tool_call_id": message.tool_call_id}
        told.append(entry)
    return told


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
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        kind = "text" if isinstance(block, str) else block.get("type")
        if kind in ("text", "text-plain"):
            parts.append(block if isinstance(block, str) else block.get("text") or "")
        elif isinstance(message, ToolMessage) and kind not in ("image", "image_url", "audio", "file", "video"):
            parts.append(json.dumps(block, ensure_ascii=False))
        elif kind not in _WITHOUT_TEXT:
            raise ValueError(
                f"the content of a {type(message).__name__} has a block of type {kind!r}, but the model reads text "
                "only: leave it out or describe it in words."
            )
    return "\n".join(parts)
