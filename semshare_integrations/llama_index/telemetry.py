"""OpenTelemetry spans and metrics of SemShare calls in LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from pydantic import PrivateAttr

from semshare_integrations.llama_index.events import SemShareReuseEvent
from semshare_integrations.statistics.telemetry import Telemetry


class SemShareTelemetryHandler(BaseEventHandler):
    """Records every SemShare call as a child of the current span.

    >>> get_dispatcher().add_event_handler(SemShareTelemetryHandler())

    Failed calls are not recorded, because LlamaIndex has an event for them only in streams.

    Args:
        telemetry: records the calls; default: with the global tracer and meter providers.
    """

    _telemetry: Telemetry = PrivateAttr()

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        super().__init__()
        self._telemetry = telemetry or Telemetry()

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex lists the handler."""
        return "SemShareTelemetryHandler"

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """LlamaIndex calls this for every event."""
        if isinstance(event, SemShareReuseEvent):
            self._telemetry.record(event.report, model=event.model, operation=event.operation)
