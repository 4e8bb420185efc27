"""Reports as OpenTelemetry spans and metrics, under the names of the semantic conventions for generative AI.

They contain numbers and names, and neither prompts nor answers.
"""

from __future__ import annotations

import time
from functools import partial

from semshare_core import Canary, ReuseReport
from semshare_core.errors import MissingDependencyError
from semshare_core.quality.canary_registry import REGISTRY
from semshare_core.quality.late_results import HEALED
from semshare_integrations.statistics.operation import Operation

try:
    from opentelemetry.metrics import MeterProvider, get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider, get_tracer
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise MissingDependencyError(
        "OpenTelemetry is not installed. Install it in SemShare's clone: pip install '.[otel]', and an SDK "
        "with an exporter, such as opentelemetry-sdk."
    ) from error

_NAME = "semshare"
# bucket bounds of the semantic conventions, because an SDK's default bounds fit milliseconds
_SECONDS = [0.01 * 2**power for power in range(14)]
_SECONDS_TO_FIRST = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_NATS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0, 5.0]  # the levels' bounds among them
_TOKENS = [4**power for power in range(14)]


class Telemetry:
    """Records a span and measurements for each call. The span is a child of the current one.

    Args:
        tracer_provider: for spans; default: the global provider.
        meter_provider: for measurements; default: the global provider.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = get_meter(_NAME, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Duration of a call", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self._usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of prompts and answers",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._first = meter.create_histogram(
            "gen_ai.server.time_to_first_token",
            "s",
            "From prompt to first token",
            explicit_bucket_boundaries_advisory=_SECONDS_TO_FIRST,
        )
        self._calls = meter.create_counter("semshare.calls", "{call}", "Calls by outcome")
        self._tokens = meter.create_counter("semshare.prompt_tokens", "{token}", "Prompt tokens by source")
        self._recomputed = meter.create_counter("semshare.recomputed_tokens", "{token}", "Prompt tokens computed")

        self._divergence = meter.create_histogram(
            "semshare.canary.kl",
            "{nat}",
            "Divergence of checked calls from the full prefill",
            explicit_bucket_boundaries_advisory=_NATS,
        )
        self._healed = meter.create_counter("semshare.healed_tokens", "{token}", "Stored rows that became lossless")
        self._checks = meter.create_counter("semshare.canary.checks", "{call}", "Calls that were to be checked")

    def record(self, report: ReuseReport, *, model: str, operation: Operation) -> None:
        """Record an answered call."""
        about = _about(model, operation)
        by_source = {
            "prefix": report.prefix_tokens,
            "moved": report.moved_tokens,
            "fuzzy": report.fuzzy_tokens,
            "new": report.new_tokens,
        }
        attributes: dict[str, str | int | float | bool] = {
            **about,
            "gen_ai.usage.input_tokens": report.prompt_tokens,
            "gen_ai.usage.output_tokens": report.generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": report.reused_tokens,
            "gen_ai.usage.cache_creation.input_tokens": report.recomputed_tokens if report.stored else 0,
            "gen_ai.response.time_to_first_chunk": report.ttft_ms / 1e3,
            "semshare.queue_seconds": report.queue_ms / 1e3,  # part of the time to the first chunk
            "semshare.outcome": report.outcome,
            "semshare.reason": report.reason,
            "semshare.level": report.level,
            "semshare.served_level": report.served_level,
            "semshare.approximate": report.outcome == "semantic" or report.account != 0,
            "semshare.recompute_ratio": report.recompute_ratio,
            "semshare.kv_bytes": report.kv_bytes,
            **{f"semshare.{source}_tokens": count for source, count in by_source.items()},
        }
        if report.account is not None:
            attributes["semshare.account"] = report.account
        if report.similarity is not None:
            attributes["semshare.similarity"] = report.similarity
        if report.first_difference is not None:
            attributes["semshare.first_difference.index"] = report.first_difference.index
            attributes["semshare.first_difference.kind"] = report.first_difference.kind
        seconds = (report.ttft_ms + report.decode_ms) / 1e3
        span = self._tracer.start_span(
            f"{operation} {model}",
            kind=SpanKind.INTERNAL,  # the model runs in this process
            attributes=attributes,
            start_time=_nanoseconds(report.arrived_at),
        )
        span.end(_nanoseconds(report.arrived_at + seconds))
        self._duration.record(seconds, about)
        self._first.record(report.ttft_ms / 1e3, about)
        self._usage.record(report.prompt_tokens, {**about, "gen_ai.token.type": "input"})
        self._usage.record(report.generated_tokens, {**about, "gen_ai.token.type": "output"})
        self._calls.add(1, {**about, "semshare.outcome": report.outcome})
        self._recomputed.add(report.recomputed_tokens, about)
        for source, count in by_source.items():
            self._tokens.add(count, {**about, "semshare.source": source})
        if report.canary is not None:
            REGISTRY.when_done(report.canary, partial(self._record_canary, about))
        HEALED.when_done(report.id, lambda tokens: self._healed.add(tokens, about))

    def _record_canary(self, about: dict[str, str], canary: Canary) -> None:
        """Record a finished check, long after its call's span."""
        levels = {**about, "semshare.level": canary.level, "semshare.served_level": canary.served_level}
        attributes: dict[str, str | bool] = {**levels, "semshare.canary.status": canary.status}
        if canary.broken is not None:
            attributes["semshare.canary.broken"] = canary.broken
        self._checks.add(1, attributes)
        if canary.kl is not None:
            self._divergence.record(canary.kl, levels)

    def record_error(self, error: BaseException, *, model: str, operation: Operation, started_at: float) -> None:
        """Record a failed call. ``started_at`` is in seconds of Unix time."""
        about = {**_about(model, operation), "error.type": type(error).__qualname__}
        span = self._tracer.start_span(
            f"{operation} {model}", kind=SpanKind.INTERNAL, attributes=about, start_time=_nanoseconds(started_at)
        )
        span.set_status(Status(StatusCode.ERROR))  # an error's text may quote the prompt
        span.end()
        self._duration.record(time.time() - started_at, about)


def _about(model: str, operation: Operation) -> dict[str, str]:
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": _NAME,
        "gen_ai.request.model": model,
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
