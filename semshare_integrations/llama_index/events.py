"""What calls reused, told through LlamaIndex's instrumentation: query engines drop ``raw``, events come through."""

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
    """One prompt was answered. ``operation`` and ``model`` are OpenTelemetry's names for what was asked of whom."""

    report: ReuseReport
    model: str
    operation: Operation

    @field_serializer("report")
    def _brief(self, report: ReuseReport) -> dict[str, Any]:
        """Exporters write events down; handlers get the report whole."""
        return report.brief()

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the event."""
        return "SemShareReuseEvent"


class SemShareCanaryEvent(BaseEvent):
    """A call was checked against a full prefill, some time after its :class:`SemShareReuseEvent`.

    Told in a thread of the background, in a copy of the call's context. ``span_id`` is the call's, and ``canary.id`` is
    that of ``report.canary`` in its first event.
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
        """Reports, totals and table of what was collected."""
        return self._log

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Called by LlamaIndex for every event."""
        if isinstance(event, SemShareReuseEvent):
            self._log.add(event.report)


class _InContext(BaseEventHandler):
    """Gives each report to the logs that are open where the call was made."""

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
    """Collect the reports of the SemShare calls made inside the ``with`` block and the tasks started there.

    Blocks may be nested: the outer one counts the calls of the inner one, too. Calls of other threads and tasks are not
    counted; :class:`SemShareEventHandler` hears of all.
    """
    log = ReuseLog()
    token = _open.set((*_open.get(), log))
    try:
        yield log
    finally:
        _open.reset(token)
