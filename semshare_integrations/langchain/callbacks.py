"""What calls reused, gathered through LangChain's callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler, BaseRunManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.tracers.context import register_configure_hook

from semshare_core import ReuseReport
from semshare_integrations.statistics import ReuseLog
from semshare_integrations.statistics.recent import whole_report


class SemShareCallbackHandler(BaseCallbackHandler, ReuseLog):
    """Collects the :class:`~semshare_core.ReuseReport` of every SemShare call that it is told of. Thread-safe.

    >>> reuse = SemShareCallbackHandler()
    >>> chain.invoke(question, config={"callbacks": [reuse]})
    >>> reuse.reports[-1].outcome, reuse.totals().prefix_tokens
    >>> print(reuse.summary())

    Answers that come out of LangChain's response cache are no calls, and are not counted. What the canary finds of a
    call after its end is written into its report here, and told to ``on_canary()``.
    """

    run_inline = True  # a thread of the executor would cost more than the little that is done here

    def __init__(self) -> None:
        super().__init__()
        self._runs: set[UUID] = set()
        self._outer: SemShareCallbackHandler | None = None

    def clear(self) -> None:
        """Forget all reports."""
        super().clear()
        with self._lock:
            self._runs.clear()

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """Called by LangChain when a chat model is asked."""
        begins(self, run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Called by LangChain when a prompt is answered, streamed or not."""
        ends(run_id)
        self._hear(run_id, reports_of(response))

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **kwargs: Any
    ) -> None:
        """Called by LangChain when a call failed, or the consumer of a stream left, be it after the last piece."""
        ends(run_id)
        if response is not None:
            self._hear(run_id, reports_of(response))

    def on_left(self, report: ReuseReport, *, run_id: UUID) -> None:
        """Called when a call ended before its time: the consumer of a stream left, or the task was cancelled."""
        self._hear(run_id, [report])

    def _hear(self, run_id: UUID, reports: Sequence[ReuseReport]) -> None:
        with self._lock:
            if not reports or run_id in self._runs:  # an outer handler may hear of a run from LangChain, too
                return
            self._runs.add(run_id)
        self.add(*reports)
        if self._outer is not None:
            self._outer._hear(run_id, reports)


_begun: ContextVar[tuple[UUID | None, tuple[BaseCallbackHandler, ...]]] = ContextVar("semshare_run", default=(None, ()))


def begins(handler: BaseCallbackHandler, run_id: UUID) -> None:
    """``handler`` is told of a chat model's run that begins in this context: LangChain streams it without a manager."""
    current, handlers = _begun.get()
    _begun.set((run_id, (*handlers, handler) if current == run_id else (handler,)))


def ends(run_id: UUID) -> None:
    """The run is over: another in this context has handlers of its own, or none."""
    if _begun.get()[0] == run_id:
        _begun.set((None, ()))


def left_early(manager: BaseRunManager | None) -> Callable[[ReuseReport], None]:
    """Tells the handlers of a run that are ours of a call that was left, which LangChain has no event for."""

    run_id, handlers = _begun.get() if manager is None else (manager.run_id, tuple(manager.handlers))

    def tell(report: ReuseReport) -> None:
        for handler in handlers:
            if (told := getattr(handler, "on_left", None)) is not None:
                told(report, run_id=run_id)

    return tell


_active: ContextVar[SemShareCallbackHandler | None] = ContextVar("semshare_callback", default=None)
register_configure_hook(_active, inheritable=True)


@contextmanager
def get_semshare_callback() -> Iterator[SemShareCallbackHandler]:
    """Collect the reports of the SemShare calls made inside the ``with`` block, in chains and the tasks started there.

    Blocks may be nested: the outer one counts the calls of the inner one, too. Threads that LangChain starts, as for
    ``batch``, count; those of your own only if they run in a copy of the context (``contextvars.copy_context().run``).
    """
    handler = SemShareCallbackHandler()
    handler._outer = _active.get()
    token = _active.set(handler)
    try:
        yield handler
    finally:
        _active.reset(token)


def reports_of(response: LLMResult) -> list[ReuseReport]:
    """The reports in what LangChain tells of an answered call."""
    generations = [generation for candidates in response.generations for generation in candidates]
    return [report for report in map(_report_of, generations) if report is not None]


def _report_of(generation: Generation) -> ReuseReport | None:
    """A text model's report is in ``generation_info``, a chat model's in its message's ``response_metadata``."""
    told = (generation.generation_info or {}).get("semshare")
    if told is None and isinstance(generation, ChatGeneration) and not _cached(generation.message):
        told = generation.message.response_metadata.get("semshare")
    return None if told is None else whole_report(told)


def _cached(message: BaseMessage) -> bool:
    """Whether the message comes out of LangChain's response cache, which says so by a cost of nothing."""
    usage: Mapping[str, object] = getattr(message, "usage_metadata", None) or {}
    return usage.get("total_cost") == 0
