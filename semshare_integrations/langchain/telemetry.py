"""OpenTelemetry spans and metrics of SemShare calls in LangChain."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import LLMResult

from semshare_core import ReuseReport
from semshare_integrations.langchain.callbacks import reports_of, run_ended, run_started
from semshare_integrations.statistics import Operation
from semshare_integrations.statistics.telemetry import Telemetry


class SemShareTelemetryHandler(BaseCallbackHandler):
    """Records every SemShare call as a child of the span in which the chain runs.

    >>> chain.invoke(question, config={"callbacks": [SemShareTelemetryHandler()]})

    Args:
        telemetry: records the calls; default: with the global tracer and meter providers.
    """

    run_inline = True  # in the calling task, whose current span is the parent

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        super().__init__()
        self._telemetry = telemetry or Telemetry()
        self._open: dict[UUID, tuple[str, Operation, float]] = {}

    def on_llm_start(
        self, serialized: Any, prompts: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """LangChain calls this when a text model starts."""
        self._start(run_id, metadata, "text_completion")

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, metadata: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """LangChain calls this when a chat model starts."""
        run_started(self, run_id)
        self._start(run_id, metadata, "chat")

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """LangChain calls this when an answer is complete, streamed or not."""
        run_ended(run_id)
        self._record(run_id, reports_of(response))

    def on_left(self, report: ReuseReport, *, run_id: UUID) -> None:
        """SemShare calls this when the consumer closed a stream early, or the task was cancelled."""
        self._record(run_id, [report])

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """LangChain calls this when a call failed."""
        run_ended(run_id)
        if (call := self._open.pop(run_id, None)) is not None:
            model, operation, started_at = call
            self._telemetry.record_error(error, model=model, operation=operation, started_at=started_at)

    def _start(self, run_id: UUID, metadata: Mapping[str, Any] | None, operation: Operation) -> None:
        metadata = metadata or {}
        if metadata.get("ls_provider") == "semshare":
            self._open[run_id] = (metadata.get("ls_model_name", ""), operation, time.time())

    def _record(self, run_id: UUID, reports: list[ReuseReport]) -> None:
        if (call := self._open.pop(run_id, None)) is not None:
            model, operation, _ = call
            for report in reports:
                self._telemetry.record(report, model=model, operation=operation)
