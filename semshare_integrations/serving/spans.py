"""OpenTelemetry spans of requests, below the client's own span if it sent one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from semshare_core import ReuseReport
from semshare_integrations.serving.exchange import Exchange
from semshare_integrations.statistics import Operation


class Spans(Protocol):
    """Records answers and errors. Any thread may call it."""

    def record(self, exchange: Exchange, report: ReuseReport, operation: Operation) -> None: ...

    def record_error(self, exchange: Exchange, error: Exception, operation: Operation, started_at: float) -> None: ...


class NoSpans:
    """Nobody asked for spans."""

    def record(self, exchange: Exchange, report: ReuseReport, operation: Operation) -> None:
        """Nothing."""

    def record_error(self, exchange: Exchange, error: Exception, operation: Operation, started_at: float) -> None:
        """Nothing."""


class OtelSpans:
    """Records with the process's OpenTelemetry, which ``opentelemetry-instrument`` configures.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed.
    """

    def __init__(self, model: str) -> None:
        from semshare_integrations.statistics.telemetry import Telemetry

        self._telemetry = Telemetry()
        self._model = model

    def record(self, exchange: Exchange, report: ReuseReport, operation: Operation) -> None:
        """An answer."""
        with _below(exchange):
            self._telemetry.record(report, model=self._model, operation=operation)

    def record_error(self, exchange: Exchange, error: Exception, operation: Operation, started_at: float) -> None:
        """A call that failed."""
        with _below(exchange):
            self._telemetry.record_error(error, model=self._model, operation=operation, started_at=started_at)


@contextmanager
def _below(exchange: Exchange) -> Iterator[None]:
    """Within the span that the client's ``traceparent`` names."""
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(exchange.trace))
    try:
        yield
    finally:
        context.detach(token)
