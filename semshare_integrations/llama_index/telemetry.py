"""LlamaIndex's calls of SemShareLLM as OpenTelemetry spans and metrics."""

from __future__ import annotations

from typing import Any

from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from pydantic import PrivateAttr

from semshare_integrations.llama_index.events import SemShareReuseEvent
from semshare_integrations.statistics.telemetry import Telemetry


class SemShareTelemetryHandler(BaseEventHandler):
    """Tells OpenTelemetry of every SemShare call, as a child of the span that is current where it is made.

    >>> get_dispatcher().add_event_handler(SemShareTelemetryHandler())

    Calls that fail tell nothing: LlamaIndex has no event for them outside of streams.

    Args:
        telemetry: where to tell it; default: the global tracer and meter providers.
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
        """Called by LlamaIndex for every event."""
        if isinstance(event, SemShareReuseEvent):
            self._telemetry.record(event.report, model=event.model, operation=event.operation)
