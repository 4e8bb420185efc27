"""What Prometheus and OpenTelemetry get of a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from semshare_integrations.serving.spans import OtelSpans
from semshare_integrations.statistics.telemetry import Telemetry
from served import MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The lighthouse at Vinga was built in 1890. Its keeper lit the lamp every evening. " * 3
VLLM = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "prompt_tokens_cached_by_source",
    "generation_tokens",
    "request_success",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
]


def ask(served: Served, **settings: Any) -> Any:
    return served.openai().completions.create(
        model=MODEL, prompt=TEXT, max_tokens=4, temperature=0, extra_body={"ignore_eos": True}, **settings
    )


def families(served: Served) -> dict[str, Any]:
    text = httpx.get(f"{served.url}/metrics").text
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_metrics_are_what_the_reports_say() -> None:
    with serving(tiny_engine()) as served:
        reports = [ask(served).model_extra["semshare"] for _ in range(3)]
        assert served.metric("semshare:answers_total", outcome="miss") == 1
        assert served.metric("semshare:answers_total", outcome="prefix") == 2
        assert (
            served.metric("semshare:prefix_cache_hits_total") == sum(r["lossless_prefix_tokens"] for r in reports) > 0
        )
        assert served.metric("semshare:prefix_cache_queries_total") == sum(r["prompt_tokens"] for r in reports)
        assert served.metric("semshare:recomputed_tokens_total") == sum(r["recomputed_tokens"] for r in reports)
        assert served.metric("semshare:generation_tokens_total") == 12
        assert served.metric("semshare:request_success_total", finished_reason="length") == 3
        assert served.metric("semshare:inter_token_latency_seconds_count") == 3
        assert served.metric("semshare:pool_entries") == 1
        whole = served.metric("semshare:e2e_request_latency_seconds_sum")
        assert 0 < served.metric("semshare:time_to_first_token_seconds_sum") < whole
        assert not any(name.startswith("vllm:") for name in families(served))


def test_dashboards_for_vllm_find_their_names() -> None:
    with serving(tiny_engine(), vllm_metrics=True) as served:
        ask(served)
        found = families(served)
        for name in VLLM:
            ours, theirs = found[f"semshare:{name}"], found[f"vllm:{name}"]
            assert theirs.type == ours.type
            values = [sample.value for sample in theirs.samples]
            assert values == [s.value for s in ours.samples if not s.name.endswith("_created")], name
        assert "vllm:recomputed_tokens" not in found


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[OtelSpans, InMemorySpanExporter]]:
    """Spans that go to memory instead of the process's own provider."""
    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    made = OtelSpans(MODEL)
    made._telemetry = Telemetry(provider, MeterProvider())
    yield made, memory
    provider.shutdown()


def test_a_span_stands_below_the_clients(spans: tuple[OtelSpans, InMemorySpanExporter]) -> None:
    otel, memory = spans
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with serving(tiny_engine(), spans=otel) as served:
        ask(served, extra_headers={"traceparent": f"00-{trace}-{parent}-01"})
        too_long: Any = {"model": MODEL, "prompt": "x" * 5000, "max_tokens": 1}
        assert httpx.post(f"{served.url}/v1/completions", json=too_long).status_code == 400
        served.wait(lambda: len(memory.get_finished_spans()) == 2)
    answered, failed = memory.get_finished_spans()
    assert answered.name == f"text_completion {MODEL}"
    assert answered.parent is not None
    assert f"{answered.context.trace_id:032x}" == trace
    assert f"{answered.parent.span_id:016x}" == parent
    assert answered.attributes is not None
    assert answered.attributes["semshare.outcome"] == "miss"
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "PromptTooLongError"
    assert failed.parent is None
    assert not any("Vinga" in str(value) for span in (answered, failed) for value in span.attributes.values())
