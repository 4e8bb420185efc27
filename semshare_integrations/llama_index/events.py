"""Report calls through LlamaIndex's events, because query engines drop ``raw``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr, field_serializer

from semshare_core import Canary, ReuseReport
from semshare_integrations.statistics import Operation, ReuseLog

dispatcher = get_dispatcher("semshare_integrations.llama_index")

_open: ContextVar[tuple[ReuseLog, ...]] = ContextVar("semshare_logs", default=())


class SemShareReuseEvent(BaseEvent):
    """A prompt was answered. ``operation`` and ``model`` are OpenTelemetry's names."""

    report: ReuseReport
    model: str
    operation: Operation

    @field_serializer("report")
    def _brief(self, report: ReuseReport) -> dict[str, Any]:
        """Exporters get the brief report; handlers get the whole one."""
        return report.brief()

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the event."""
        return "SemShareReuseEvent"


class SemShareCanaryEvent(BaseEvent):
    """A call was compared with a full prefill, some time after its :class:`SemShareReuseEvent`.

    The event comes in a background thread, in a copy of the call's context. ``span_id`` is the call's. ``canary.id``
    equals the id of ``report.canary`` in the first event.
    """

    canary: Canary
    model: str
    operation: Operation

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the event."""
        return "SemShareCanaryEvent"


class SemShareEventHandler(BaseEventHandler):
    """Collects the :class:`~semshare_core.ReuseReport` of every SemShare call of the process, in ``log``.

    >>> handler = SemShareEventHandler()
    >>> get_dispatcher().add_event_handler(handler)
    >>> query_engine.query(question)
    >>> print(handler.log.summary())
    """

    _log: ReuseLog = PrivateAttr(default_factory=ReuseLog)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the handler."""
        return "SemShareEventHandler"

    @property
    def log(self) -> ReuseLog:
        """The collected reports, with totals and a table."""
        return self._log

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """LlamaIndex calls this for every event."""
        if isinstance(event, SemShareReuseEvent):
            self._log.add(event.report)


class _InContext(BaseEventHandler):
    """Adds each report to the logs that are open in the call's context."""

    @classmethod
    def class_name(cls) -> str:
        return "SemShareInContext"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        if isinstance(event, SemShareReuseEvent):
            for log in _open.get():
                log.add(event.report)


dispatcher.add_event_handler(_InContext())


@contextmanager
def get_semshare_callback() -> Iterator[ReuseLog]:
    """Collect the reports of the SemShare calls inside the ``with`` block and in tasks that start there.

    An outer block also counts the calls of an inner block. Other threads and tasks do not count;
    :class:`SemShareEventHandler` collects all calls.
    """
    log = ReuseLog()
    token = _open.set((*_open.get(), log))
    try:
        yield log
    finally:
        _open.reset(token)
