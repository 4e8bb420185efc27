"""Answers as LlamaIndex's responses, whole and streamed, with the report in ``raw`` and in an event."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, MessageRole
from llama_index.core.instrumentation.span import active_span_id

from semshare_core import Canary, Piece, ReuseReport
from semshare_core.quality.canary_registry import REGISTRY
from semshare_integrations.adapter import ChatCall, token_usage
from semshare_integrations.llama_index.events import SemShareCanaryEvent, SemShareReuseEvent, dispatcher
from semshare_integrations.llama_index.messages import message_of
from semshare_integrations.statistics import Operation
from semshare_integrations.statistics.recent import brief

Response = TypeVar("Response", CompletionResponse, ChatResponse)


@dataclass(frozen=True)
class Answer:
    """The answer to one call of ``model``. It keeps the call's span and context, to which the event belongs.

    A stream may be read in another thread, or after the ``with`` block that made the call.
    """

    model: str
    operation: Operation
    span_id: str | None = field(default_factory=active_span_id.get)
    context: Context = field(default_factory=copy_context)

    def completion(self, chat_call: ChatCall, piece: Piece, delta: str | None = None) -> CompletionResponse:
        """The text so far. The last response has the report."""
        return CompletionResponse(text=chat_call.text, delta=delta, raw=self._raw(chat_call, piece))

    def chat(self, chat_call: ChatCall, piece: Piece, delta: str | None = None) -> ChatResponse:
        """The message so far. The last response has the tool calls and the report."""
        if piece.report is None:
            message = ChatMessage(role=MessageRole.ASSISTANT, content=chat_call.text)
        else:
            message = message_of(chat_call.reply)
        return ChatResponse(message=message, delta=delta, raw=self._raw(chat_call, piece))

    def _raw(self, chat_call: ChatCall, piece: Piece) -> dict[str, Any] | None:
        report = piece.report
        if report is None:
            return None
        self._publish(self.context, report)
        invalid = [{"name": bad.name, "text": bad.text, "error": bad.error} for bad in chat_call.reply.invalid]
        usage = token_usage(report.prompt_tokens, report.generated_tokens)
        return {
            "model": self.model,
            "finish_reason": chat_call.finish_reason(piece),
            "usage": {**usage, "prompt_tokens_details": {"cached_tokens": report.reused_tokens}},
            "semshare": brief(report),
            **({"invalid_tool_calls": invalid} if invalid else {}),
        }

    def left(self, report: ReuseReport) -> None:
        """The consumer closed the stream early, perhaps while the context was in use."""
        self._publish(self.context.copy(), report)

    def _publish(self, context: Context, report: ReuseReport) -> None:
        event = SemShareReuseEvent(report=report, model=self.model, operation=self.operation, span_id=self.span_id)
        context.run(dispatcher.event, event)
        if report.canary is not None:
            REGISTRY.when_done(report.canary, self._publish_check)

    def _publish_check(self, canary: Canary) -> None:
        event = SemShareCanaryEvent(canary=canary, model=self.model, operation=self.operation, span_id=self.span_id)
        self.context.copy().run(dispatcher.event, event)  # a copy: the call may still run in the context itself


def streamed(
    pieces: Generator[tuple[ChatCall, Piece], None, None], respond: Callable[[ChatCall, Piece, str | None], Response]
) -> Generator[Response, None, None]:
    """Yield a response for each piece with text, and one for the last piece."""
    with closing(pieces):
        for chat_call, piece in pieces:
            delta = chat_call.take(piece)
            if delta or piece.report is not None:
                yield respond(chat_call, piece, delta)


async def astreamed(
    pieces: AsyncGenerator[tuple[ChatCall, Piece], None], respond: Callable[[ChatCall, Piece, str | None], Response]
) -> AsyncGenerator[Response]:
    """Yield a response for each piece with text, and one for the last piece."""
    async with aclosing(pieces):
        async for chat_call, piece in pieces:
            delta = chat_call.take(piece)
            if delta or piece.report is not None:
                yield respond(chat_call, piece, delta)
