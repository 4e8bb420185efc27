"""Collect the reports of calls through LangChain's callbacks."""

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
    """Collects the :class:`~semshare_core.ReuseReport` of every SemShare call. Thread-safe.

    >>> reuse = SemShareCallbackHandler()
    >>> chain.invoke(question, config={"callbacks": [reuse]})
    >>> reuse.reports[-1].outcome, reuse.totals().prefix_tokens
    >>> print(reuse.summary())

    Answers from LangChain's response cache do not count. A call's report gets the canary's result later, and
    ``on_canary()`` is called.
    """

    run_inline = True  # a thread would cost more than the callback

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
        """LangChain calls this when a chat model starts."""
        run_started(self, run_id)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """LangChain calls this when an answer is complete, streamed or not."""
        run_ended(run_id)
        self._add_once(run_id, reports_of(response))

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **kwargs: Any
    ) -> None:
        """LangChain calls this when a call failed, or the consumer closed the stream, even after the last piece."""
        run_ended(run_id)
        if response is not None:
            self._add_once(run_id, reports_of(response))

    def on_left(self, report: ReuseReport, *, run_id: UUID) -> None:
        """SemShare calls this when the consumer closed a stream early, or the task was cancelled."""
        self._add_once(run_id, [report])

    def _add_once(self, run_id: UUID, reports: Sequence[ReuseReport]) -> None:
        with self._lock:
            if not reports or run_id in self._runs:  # LangChain may also have called an outer handler
                return
            self._runs.add(run_id)
        self.add(*reports)
        if self._outer is not None:
            self._outer._add_once(run_id, reports)


_current: ContextVar[tuple[UUID | None, tuple[BaseCallbackHandler, ...]]] = ContextVar(
    "semshare_run", default=(None, ())
)


def run_started(handler: BaseCallbackHandler, run_id: UUID) -> None:
    """Remember the handler of a chat model's run in this context, because LangChain streams without a run manager."""
    current, handlers = _current.get()
    _current.set((run_id, (*handlers, handler) if current == run_id else (handler,)))


def run_ended(run_id: UUID) -> None:
    """Forget the handlers of a run."""
    if _current.get()[0] == run_id:
        _current.set((None, ()))


def left_early(manager: BaseRunManager | None) -> Callable[[ReuseReport], None]:
    """A function that calls ``on_left`` of a run's handlers. LangChain has no event for a stream that is left early."""

    run_id, handlers = _current.get() if manager is None else (manager.run_id, tuple(manager.handlers))

    def notify(report: ReuseReport) -> None:
        for handler in handlers:
            if (on_left := getattr(handler, "on_left", None)) is not None:
                on_left(report, run_id=run_id)

    return notify


_active: ContextVar[SemShareCallbackHandler | None] = ContextVar("semshare_callback", default=None)
register_configure_hook(_active, inheritable=True)


@contextmanager
def get_semshare_callback() -> Iterator[SemShareCallbackHandler]:
    """Collect the reports of the SemShare calls inside the ``with`` block, in chains and in tasks that start there.

    An outer block also counts the calls of an inner block. LangChain's own threads count, as for ``batch``. Your
    threads count only if they run in a copy of the context (``contextvars.copy_context().run``).
    """
    handler = SemShareCallbackHandler()
    handler._outer = _active.get()
    token = _active.set(handler)
    try:
        yield handler
    finally:
        _active.reset(token)


def reports_of(response: LLMResult) -> list[ReuseReport]:
    """The reports in LangChain's result of a call."""
    generations = [generation for candidates in response.generations for generation in candidates]
    return [report for report in map(_report_of, generations) if report is not None]


def _report_of(generation: Generation) -> ReuseReport | None:
    """A text model's report is in ``generation_info``, a chat model's in its message's ``response_metadata``."""
    brief = (generation.generation_info or {}).get("semshare")
    if brief is None and isinstance(generation, ChatGeneration) and not _cached(generation.message):
        brief = generation.message.response_metadata.get("semshare")
    return None if brief is None else whole_report(brief)


def _cached(message: BaseMessage) -> bool:
    """Whether the message comes from LangChain's response cache, which sets a cost of 0."""
    usage: Mapping[str, object] = getattr(message, "usage_metadata", None) or {}
    return usage.get("total_cost") == 0
