"""Convert LangChain's messages to mappings for chat templates."""

from __future__ import annotations

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
from semshare_integrations.adapter.content import answer_text, text_of, tool_text


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
    whose = f"a {type(message).__name__}"
    if isinstance(message, AIMessage):
        return answer_text(message.content, whose, message.additional_kwargs.get("refusal"))
    if isinstance(message, ToolMessage):
        return tool_text(message.content, whose)
    return text_of(message.content, whose)
