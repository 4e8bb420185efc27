"""Run the engine for requests: in a thread, in turn, counted, and ended when nobody wants the answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from transformers import LogitsProcessor

from semshare_core import Piece, ReuseReport, SemShareEngine
from semshare_core.errors import SemShareError
from semshare_integrations.adapter import ChatCall, in_thread
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.errors import RequestError, request_error
from semshare_integrations.serving.exchange import Exchange
from semshare_integrations.serving.in_full import ended, in_full
from semshare_integrations.serving.live import Live, Seen
from semshare_integrations.serving.logprobs import LogprobRecorder, TokenLogprob
from semshare_integrations.serving.metrics import Metrics
from semshare_integrations.serving.spans import Spans
from semshare_integrations.statistics import Operation
from semshare_integrations.tools import Reply

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One answer that a client wants.

    Attributes:
        make: makes the call, in the thread that runs it.
        settings: of :meth:`SemShareEngine.stream`.
        operation: for traces.
        index: of the choice.
        top_logprobs: record the log probabilities of tokens, and of so many likeliest ones; None: of none.
        processors: logits processors of this answer.
    """

    make: Callable[[], ChatCall]
    settings: dict[str, Any]
    operation: Operation
    index: int = 0
    top_logprobs: int | None = None
    processors: Sequence[LogitsProcessor] = ()


@dataclass(frozen=True)
class Ending:
    """The end of an answer."""

    reply: Reply
    finish_reason: str
    report: ReuseReport
    token_ids: list[int]


@dataclass(frozen=True)
class Part:
    """New text of the answer ``index``. The last part has the ``ending``."""

    index: int
    text: str
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ending: Ending | None = None


class Answers:
    """The engine, as the routes see it."""

    def __init__(
        self,
        engine: SemShareEngine,
        admission: Admission,
        metrics: Metrics,
        live: Live,
        spans: Spans,
        timeout: float,
    ) -> None:
        self.engine = engine
        self._admission = admission
        self._metrics = metrics
        self._live = live
        self._spans = spans
        self._timeout = timeout
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, asks: Sequence[Ask], tokens: int, exchange: Exchange) -> AsyncGenerator[Part, None]:
        """The parts of the answers, one answer after the other, so that each can reuse the prompt's rows.

        It is closed with the exchange, whoever reads it.

        Args:
            tokens: about so many tokens take part, for the limits of the queue.
        """
        parts = self._parts(asks, tokens, exchange)
        exchange.closing.push_async_callback(parts.aclose)
        return parts

    async def in_turn(self, work: Callable[[threading.Event, float], T], tokens: int) -> T:
        """Run ``work`` in a thread, in turn with the answers.

        It is called with an event that is set when nobody waits any more, and with the seconds that it may take.
        """
        cancel = threading.Event()

        async def run() -> T:
            async with self._admission.place(tokens) as waited:
                left = max(1e-3, self._timeout - waited)
                thread = asyncio.ensure_future(asyncio.to_thread(work, cancel, left))
                return await in_full(thread, cancel.set)

        return await self._kept(run())

    async def _kept(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` in a task of its own, which nobody but this method cancels, and cancels but once.

        What awaits this method may be cancelled many times over, as anyio does. The task still keeps its place until
        its thread has ended.
        """
        task = self._task(work)
        try:
            return await asyncio.shield(task)
        finally:
            task.cancel()
            await asyncio.wait((task,))

    def _task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop has only weak references
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told to whoever still waits
        return task

    async def _parts(self, asks: Sequence[Ask], tokens: int, exchange: Exchange) -> AsyncGenerator[Part, None]:
        """The parts as the engine makes them. A reader that is slow, or reads nothing, keeps no place."""
        arrived: asyncio.Queue[Part | None] = asyncio.Queue()
        work = self._task(self._work(asks, tokens, exchange, arrived.put_nowait))
        work.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (part := await arrived.get()) is not None:
                yield part
            await work  # raises what went wrong
        finally:
            work.cancel()
            await asyncio.wait((work,))

    async def _work(self, asks: Sequence[Ask], tokens: int, exchange: Exchange, give: Callable[[Part], None]) -> None:
        began = time.monotonic()
        async with self._admission.place(tokens):
            for ask in asks:
                left = max(1e-3, self._timeout - (time.monotonic() - began))
                timed = replace(ask, settings={**ask.settings, "timeout": left})
                await self._one(timed, exchange, give)

    async def _one(self, ask: Ask, exchange: Exchange, give: Callable[[Part], None]) -> None:
        """One answer. It ends when the engine's thread has ended: until then its place is not free."""
        loop, thread_ended = asyncio.get_running_loop(), asyncio.Event()
        started_at = time.time()

        def on_end() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(thread_ended.set)

        def record(report: ReuseReport, finish_reason: str) -> None:
            self._metrics.record(report, exchange.seconds_before(report), finish_reason)
            self._live.add(Seen.of(exchange, report, finish_reason))
            self._spans.record(exchange, report, ask.operation)

        def unread(part: Part) -> None:
            if part.ending is not None:  # whatever ended it, the client had left
                record(part.ending.report, "abort")

        def make(closed: threading.Event) -> Generator[Part, None, None]:
            return self._run(ask, closed, lambda report: record(report, "abort"))

        parts = in_thread(make, unread, on_end)
        begun = False
        try:
            async with aclosing(parts):
                begun = True
                async for part in parts:
                    if part.ending is not None:
                        exchange.reports.append(part.ending.report)
                        exchange.finish_reason = part.ending.finish_reason
                        record(part.ending.report, part.ending.finish_reason)
                    give(part)
        except Exception as error:
            self._spans.record_error(exchange, error, ask.operation, started_at)
            raise
        finally:
            if begun:
                await ended(asyncio.ensure_future(thread_ended.wait()))

    def _run(
        self, ask: Ask, closed: threading.Event, on_left: Callable[[ReuseReport], None]
    ) -> Generator[Part, None, None]:
        """Runs in a thread."""
        try:
            call = ask.make()
        except SemShareError:
            raise
        except ValueError as error:  # of messages, tools and formats
            raise RequestError(str(error), code="invalid_value") from error
        engine, recorder = self.engine, None
        processors = list(ask.processors)
        if ask.top_logprobs is not None:
            recorder = LogprobRecorder(engine.tokenizer, ask.top_logprobs)
            processors.insert(0, recorder)
        settings = {**ask.settings, "on_left": on_left}
        if processors:
            settings["logits_processor"] = processors
        with closing(call.stream(settings, closed)) as pieces:
            for piece in pieces:
                if recorder is not None and piece.token_ids is not None:
                    recorder.finish(piece.token_ids, engine.model.generation_config.eos_token_id)
                part = _part(call, piece, ask.index, [] if recorder is None else recorder.take())
                if part.text or part.logprobs or part.ending:
                    yield part


def _part(call: ChatCall, piece: Piece, index: int, logprobs: list[TokenLogprob]) -> Part:
    text = call.take(piece)
    if piece.report is None:
        return Part(index, text, logprobs)
    ending = Ending(call.reply, call.finish_reason(piece) or "stop", piece.report, piece.token_ids or [])
    return Part(index, text, logprobs, ending)


async def gathered(parts: AsyncGenerator[Part, None]) -> list[Part]:
    """All parts of whole answers."""
    return [part async for part in parts]


def failed(error: Exception, exchange: Exchange) -> RequestError:
    """What a client is told of an error in the middle of a stream."""
    told = request_error(error)
    exchange.failure = told.code or told.kind
    return told
