"""Answers as LangChain's messages, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from semshare_core import Piece, ReuseReport, SemShareEngine
from semshare_integrations.adapter import ChatCall, token_usage
from semshare_integrations.adapter.chat_call import call_id
from semshare_integrations.langchain.messages import to_template
from semshare_integrations.statistics.recent import brief


def chat_call_of(engine: SemShareEngine, messages: Sequence[BaseMessage], overrides: Mapping[str, Any]) -> ChatCall:
    """The call of a chat model with ``messages`` and LangChain's settings."""
    return ChatCall.of(
        engine,
        to_template(messages),
        tools=[convert_to_openai_tool(tool) for tool in overrides.get("tools") or []],
        tool_choice=overrides.get("tool_choice"),
        parallel_tool_calls=bool(overrides.get("parallel_tool_calls")),
        response_format=overrides.get("response_format"),
    )


def result_of(chat_call: ChatCall, pieces: Sequence[Piece], model_name: str) -> ChatResult:
    """The whole answer."""
    for piece in pieces:
        chat_call.take(piece)
    last = pieces[-1]
    assert last.report is not None
    message = AIMessage(
        content=chat_call.reply.text,
        tool_calls=[tool_call(name=call.name, args=call.arguments, id=call_id()) for call in chat_call.reply.calls],
        invalid_tool_calls=[
            invalid_tool_call(name=bad.name, args=bad.text, id=call_id(), error=bad.error)
            for bad in chat_call.reply.invalid
        ],
        usage_metadata=_usage(last.report),
        response_metadata=_metadata(chat_call, last, model_name),
    )
    return ChatResult(
        generations=[ChatGeneration(message=message)],
        llm_output={
            "token_usage": token_usage(last.report.prompt_tokens, last.report.generated_tokens),
            "model_name": model_name,
        },
    )


def chunk_of(chat_call: ChatCall, piece: Piece, model_name: str) -> ChatGenerationChunk | None:
    """The chunk for ``piece``: text outside tool calls; the last chunk has the calls. None: nothing to show yet."""
    text = chat_call.take(piece)
    if piece.report is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=text)) if text else None
    calls: list[tuple[str | None, str]] = [
        (call.name, json.dumps(call.arguments, ensure_ascii=False)) for call in chat_call.reply.calls
    ]
    # as a JSON string, because LangChain repairs half an object and would take it for a valid call
    calls += [(bad.name, json.dumps(bad.text, ensure_ascii=False)) for bad in chat_call.reply.invalid]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=text,
            tool_call_chunks=[
                tool_call_chunk(name=name, args=arguments, id=call_id(), index=index)
                for index, (name, arguments) in enumerate(calls)
            ],
            usage_metadata=_usage(piece.report),
            response_metadata=_metadata(chat_call, piece, model_name),
            chunk_position="last",
        )
    )


def _usage(report: ReuseReport) -> UsageMetadata:
    """Reused tokens count as ``cache_read``; computed tokens that were stored count as ``cache_creation``."""
    return UsageMetadata(
        input_tokens=report.prompt_tokens,
        output_tokens=report.generated_tokens,
        total_tokens=report.prompt_tokens + report.generated_tokens,
        input_token_details=InputTokenDetails(
            cache_read=report.reused_tokens, cache_creation=report.recomputed_tokens if report.stored else 0
        ),
    )


def _metadata(chat_call: ChatCall, last: Piece, model_name: str) -> dict[str, Any]:
    assert last.report is not None
    return {
        "model_name": model_name,
        "finish_reason": chat_call.finish_reason(last),
        "semshare": brief(last.report),
    }
