"""What Prometheus scrapes. Numbers of all callers together: no prompt, no key and no namespace is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from semshare_core import Canary, ReuseReport, SemShareEngine
from semshare_core.match.plan import Source
from semshare_core.quality.canary_registry import REGISTRY
from semshare_core.quality.late_results import HEALED
from semshare_integrations.serving.admission import Admission

_SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0]
_NATS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1.0, 2.0, 5.0]  # the levels' bounds among them
_SHARES = [0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0]

_OURS, _VLLM = "semshare:", "vllm:"
_VLLM_HAS = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens",
    "prompt_tokens_cached_by_source",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = self._counter, self._histogram
        self._http = counter("http_requests", "Requests by route and status", ["route", "status"])
        self._outcomes = counter("answers", "Answers by how their prompts were served", ["outcome"])
        self._finished = counter("request_success", "Answers by why they ended", ["finished_reason"])
        self._prompt = counter("prompt_tokens", "Prompt tokens")
        self._source = counter("prompt_tokens_by_source", "Prompt tokens by what serves them", ["source"])
        self._cached = counter("prompt_tokens_cached_by_source", "Prompt tokens that were not computed", ["source"])
        self._recomputed = counter("recomputed_tokens", "Prompt tokens that were computed")
        self._generated = counter("generation_tokens", "Generated tokens")
        self._queries = counter("prefix_cache_queries", "Prompt tokens that a prefix was looked up for")
        self._hits = counter("prefix_cache_hits", "Prompt tokens that lossless rows of a prefix served")
        self._healed = counter("healed_tokens", "Stored rows that became lossless")
        self._first = histogram("time_to_first_token_seconds", "From request to first token, with the queue", _SECONDS)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens, the mean of an answer", _SECONDS)
        self._whole = histogram("e2e_request_latency_seconds", "From request to last token, with the queue", _SECONDS)
        self._queue = histogram("request_queue_time_seconds", "Waiting for a place and for the model", _SECONDS)
        self._prefill = histogram("request_prefill_time_seconds", "Prefill", _SECONDS)
        self._decode = histogram("request_decode_time_seconds", "Decoding", _SECONDS)
        self._ratio = histogram("recompute_ratio", "Rows computed / rows", _SHARES)
        self._expected = histogram("expected_kl", "Forecast KL to the full prefill", _NATS)
        self._measured = histogram("measured_kl", "KL of checked answers to the full prefill", _NATS, ["level"])

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(_OURS + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(_OURS + name, text, labels, registry=self.registry, buckets=buckets)

    def observe(self, admission: Admission, engine: SemShareEngine) -> None:
        """Show how full the queue and the pool are, at each scrape."""
        self._gauge("num_requests_running", "Requests that the engine has", lambda: admission.running)
        self._gauge("num_requests_waiting", "Requests that wait for a place", lambda: admission.waiting)
        self._gauge("tokens_in_flight", "Tokens of running and waiting requests, estimated", lambda: admission.tokens)
        pool = engine.pool
        self._gauge("pool_entries", "Prompts in the pool", lambda: pool.stats().entries)
        self._gauge("pool_bytes", "Keys and values in memory", lambda: pool.stats().bytes)
        self._gauge("pool_disk_bytes", "Keys and values on disk", lambda: pool.stats().disk_bytes)
        self._gauge("pool_evictions", "Prompts that left the pool for want of room", lambda: pool.stats().evictions)
        most = max(1, pool.config.max_bytes)
        self._gauge("kv_cache_usage_perc", "Share of the pool's memory", lambda: pool.stats().device_bytes / most)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(_OURS + name, text, registry=self.registry).set_function(value)

    def answered(self, route: str, status: int) -> None:
        """Count a response."""
        self._http.labels(route, str(status)).inc()

    def record(self, report: ReuseReport, waited: float, finish_reason: str) -> None:
        """Count an answer. ``waited``: the seconds before the engine had the request. Any thread may call this."""
        self._outcomes.labels(report.outcome).inc()
        self._finished.labels(finish_reason).inc()
        self._prompt.inc(report.prompt_tokens)
        reused = {"prefix": report.prefix_tokens, "moved": report.moved_tokens, "fuzzy": report.fuzzy_tokens}
        for source, count in {**reused, "new": report.new_tokens}.items():
            self._source.labels(source).inc(count)
        for source, count in _not_computed(report).items():
            self._cached.labels(source).inc(count)
        self._recomputed.inc(report.recomputed_tokens)
        self._generated.inc(report.generated_tokens)
        self._queries.inc(report.prompt_tokens)
        self._hits.inc(report.lossless_prefix_tokens)
        self._first.observe(waited + report.ttft_ms / 1e3)
        if report.generated_tokens > 1:
            self._between.observe(report.decode_ms / 1e3 / (report.generated_tokens - 1))
        self._whole.observe(waited + (report.ttft_ms + report.decode_ms) / 1e3)
        self._queue.observe(waited + report.queue_ms / 1e3)
        self._prefill.observe(report.prefill_ms / 1e3)
        self._decode.observe(report.decode_ms / 1e3)
        self._ratio.observe(report.recompute_ratio)
        if report.expected_kl is not None:
            self._expected.observe(report.expected_kl)
        if report.canary is not None:
            REGISTRY.when_done(report.canary, self._checked)
        HEALED.when_done(report.id, self._healed.inc)

    def _checked(self, canary: Canary) -> None:
        if canary.kl is not None:
            self._measured.labels(canary.level).observe(canary.kl)

    def exposition(self, *, vllm: bool) -> bytes:
        """The text that Prometheus reads. ``vllm``: also under vLLM's names."""
        return generate_latest(_WithAliases(self.registry) if vllm else self.registry)


class _WithAliases:
    """A registry's metrics, some of them twice."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """What the registry collects, then what vLLM has, too, under its names."""
        found = list(self._registry.collect())
        yield from found
        for metric in found:
            if metric.name.removeprefix(_OURS) in _VLLM_HAS:
                alias = Metric(_vllm_name(metric.name), metric.documentation, metric.type)
                alias.samples = list(map(_aliased, _counted(metric.samples)))
                yield alias


def _counted(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Without the times at which counters began, which vLLM's dashboards do not know."""
    return (sample for sample in samples if not sample.name.endswith("_created"))


def _aliased(sample: Sample) -> Sample:
    return sample._replace(name=_vllm_name(sample.name))


def _vllm_name(name: str) -> str:
    return _VLLM + name.removeprefix(_OURS)


def _not_computed(report: ReuseReport) -> dict[str, int]:
    """Tokens by source whose rows were served as they were."""
    sources, recomputed = np.asarray(report.token_sources, np.int64), np.asarray(report.token_recomputed, bool)
    counts = np.bincount(sources[~recomputed], minlength=len(Source)).tolist()
    return {source.name.lower(): counts[source] for source in Source if source is not Source.NEW}
