"""LangChain's calls of SemShare's models as OpenTelemetry spans and metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from semshare_core import ReuseReport
from semshare_integrations.langchain.callbacks import begins, ends, reports_of
from semshare_integrations.statistics import Operation
from semshare_integrations.statistics.telemetry import Telemetry


class SemShareTelemetryHandler(BaseCallbackHandler):
    """Tells OpenTelemetry of every SemShare call, as a child of the span that is current where the chain runs.

    >>> chain.invoke(question, config={"callbacks": [SemShareTelemetryHandler()]})

    Args:
        telemetry: where to tell it; default: the global tracer and meter providers.
    """

    run_inline = True  # in the task that calls, whose current span is the parent

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        super().__init__()
        self._telemetry = telemetry or Telemetry()
        self._open: dict[UUID, tuple[str, Operation, float]] = {}

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by LangChain when a text model is asked."""
        self._start(run_id, metadata, "text_completion")

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by LangChain when a chat model is asked."""
        begins(self, run_id)
        self._start(run_id, metadata, "chat")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Called by LangChain when a prompt is answered, streamed or not."""
        ends(run_id)
        if (call := self._open.pop(run_id, None)) is not None:
            model, operation, _ = call
            for report in reports_of(response):
                self._telemetry.record(report, model=model, operation=operation)

    def on_left(self, report: ReuseReport, *, run_id: UUID) -> None:
        """Called when a call ended before its time: the consumer of a stream left, or the task was cancelled."""
        if (call := self._open.pop(run_id, None)) is not None:
            model, operation, _ = call
            self._telemetry.record(report, model=model, operation=operation)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Called by LangChain when a call failed."""
        ends(run_id)
        if (call := self._open.pop(run_id, None)) is not None:
            model, operation, started_at = call
            self._telemetry.record_error(error, model=model, operation=operation, started_at=started_at)

    def _start(self, run_id: UUID, metadata: Mapping[str, Any] | None, operation: Operation) -> None:
        told = metadata or {}
        if told.get("ls_provider") == "semshare":
            self._open[run_id] = (told.get("ls_model_name", ""), operation, time.time())
