"""OpenTelemetry: spans and measurements of both frameworks' calls, in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.runnables import RunnableLambda
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.llms import ChatMessage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.langchain import ChatSemShare, SemShareLLM, get_semshare_callback
from semshare_integrations.langchain.telemetry import SemShareTelemetryHandler
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from semshare_integrations.llama_index.telemetry import SemShareTelemetryHandler as LlamaIndexHandler
from semshare_integrations.statistics.telemetry import Telemetry
from tiny_canary import busy
from tiny_healing import ask, healing_engine

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"


class Heard:
    """Spans and measurements that were told."""

    def __init__(self) -> None:
        self._spans, self._metrics = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = Telemetry(self.tracers, MeterProvider([self._metrics]))

    @property
    def spans(self) -> list[Any]:
        return [span for span in self._spans.get_finished_spans() if span.name != "outer"]

    def points(self, name: str) -> list[Any]:
        told = self._metrics.get_metrics_data()
        scopes = [scope for resource in told.resource_metrics for scope in resource.scope_metrics] if told else []
        return [
            point for scope in scopes for each in scope.metrics if each.name == name for point in each.data.data_points
        ]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareEngine:
    return SemShareEngine(model, tokenizer)


def test_a_span_tells_what_the_report_does(heard: Heard, engine: SemShareEngine) -> None:
    llm = SemShareLLM(engine=engine, model_id="tiny", max_new_tokens=3, reuse="exact")
    with get_semshare_callback() as calls:
        for _ in range(2):
            llm.invoke(PROMPT, config={"callbacks": [SemShareTelemetryHandler(heard.telemetry)]})
    miss, hit = heard.spans
    report = calls.reports[1]
    assert hit.name == "text_completion tiny"
    assert hit.kind == SpanKind.INTERNAL
    told = dict(hit.attributes)
    assert told == told | {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "semshare",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": len(PROMPT),
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": len(PROMPT) - 1,
        "gen_ai.usage.cache_creation.input_tokens": 0,
        "semshare.outcome": "prefix",
        "semshare.approximate": False,
        "semshare.prefix_tokens": len(PROMPT) - 1,
        "semshare.new_tokens": 1,
    }
    assert told["semshare.queue_seconds"] == pytest.approx(report.queue_ms / 1e3)
    assert hit.start_time == pytest.approx(report.arrived_at * 1e9, abs=1e6)
    assert hit.end_time - hit.start_time == pytest.approx((report.ttft_ms + report.decode_ms) * 1e6, rel=0.01)
    assert miss.attributes["gen_ai.usage.cache_read.input_tokens"] == 0
    assert miss.attributes["gen_ai.usage.cache_creation.input_tokens"] == len(PROMPT)
    assert not any(PROMPT[:20] in str(value) for value in told.values()), "no prompt leaves the process"


def test_measurements_add_up(heard: Heard, engine: SemShareEngine) -> None:
    llm = SemShareLLM(engine=engine, model_id="tiny", max_new_tokens=3, reuse="exact")
    llm.batch([PROMPT, PROMPT + " And?", "Short"], config={"callbacks": [SemShareTelemetryHandler(heard.telemetry)]})
    calls = {point.attributes["semshare.outcome"]: point.value for point in heard.points("semshare.calls")}
    assert calls == {"miss": 2, "prefix": 1}
    tokens = {point.attributes["semshare.source"]: point.value for point in heard.points("semshare.prompt_tokens")}
    assert sum(tokens.values()) == 2 * len(PROMPT) + 10
    assert tokens["prefix"] == len(PROMPT)
    usage = {point.attributes["gen_ai.token.type"]: point.sum for point in heard.points("gen_ai.client.token.usage")}
    assert usage == {"input": 2 * len(PROMPT) + 10, "output": 9}
    for name in ("gen_ai.client.operation.duration", "gen_ai.server.time_to_first_token"):
        [point] = heard.points(name)
        assert point.count == 3
        assert point.explicit_bounds[0] <= 0.01, "bounds for seconds, not for milliseconds"


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_spans_belong_to_the_span_around(heard: Heard, engine: SemShareEngine, kind: Any, way: str) -> None:
    chain = RunnableLambda(str) | kind(engine=engine, model_id="tiny", max_new_tokens=3)
    config: Any = {"callbacks": [SemShareTelemetryHandler(heard.telemetry)]}

    async def later() -> None:
        with tracer.start_as_current_span("outer"):
            if way == "ainvoke":
                await asyncio.gather(chain.ainvoke(PROMPT, config), chain.ainvoke("Other", config))
            else:
                async for _ in chain.astream(PROMPT, config):
                    pass

    tracer = heard.tracers.get_tracer("test")
    if way.startswith("a"):
        asyncio.run(later())
    else:
        with tracer.start_as_current_span("outer"):
            chain.invoke(PROMPT, config) if way == "invoke" else list(chain.stream(PROMPT, config))
    assert len(heard.spans) == (2 if way == "ainvoke" else 1)
    [outer] = [span for span in heard._spans.get_finished_spans() if span.name == "outer"]
    for span in heard.spans:
        assert span.name == ("chat tiny" if kind is ChatSemShare else "text_completion tiny")
        assert span.parent.span_id == outer.context.span_id


def test_a_failed_call_is_told(heard: Heard, engine: SemShareEngine) -> None:
    llm = SemShareLLM(engine=engine, model_id="tiny")
    with pytest.raises(ConfigError):
        llm.invoke(PROMPT, max_tokenz=3, config={"callbacks": [SemShareTelemetryHandler(heard.telemetry)]})
    [span] = heard.spans
    assert span.status.status_code == StatusCode.ERROR
    assert span.attributes["error.type"] == "ConfigError"
    assert span.status.description is None, "an error's text may quote the prompt"
    assert not span.events
    assert heard.points("gen_ai.client.operation.duration")[0].attributes["error.type"] == "ConfigError"


def test_other_models_are_not_ours_to_tell_of(heard: Heard) -> None:
    FakeListLLM(responses=["x"]).invoke("?", config={"callbacks": [SemShareTelemetryHandler(heard.telemetry)]})
    assert heard.spans == []


@pytest.fixture
def listening(heard: Heard) -> Iterator[None]:
    root, handler = get_dispatcher(), LlamaIndexHandler(heard.telemetry)
    root.add_event_handler(handler)
    yield
    root.event_handlers = [each for each in root.event_handlers if each is not handler]


@pytest.mark.usefixtures("listening")
def test_llama_index_tells_the_same(heard: Heard, engine: SemShareEngine) -> None:
    llm = LlamaIndexLLM(engine=engine, model_id="tiny", max_new_tokens=3, reuse="exact")
    with heard.tracers.get_tracer("test").start_as_current_span("outer") as outer:
        llm.complete(PROMPT)
        list(llm.stream_chat([ChatMessage(PROMPT)]))
        asyncio.run(llm.acomplete(PROMPT))
        read_later = llm.stream_complete(PROMPT)
    list(read_later)
    assert [span.name for span in heard.spans] == [
        f"{kind} tiny" for kind in ("text_completion", "chat", "text_completion", "text_completion")
    ]
    assert heard.spans[2].attributes["gen_ai.usage.cache_read.input_tokens"] == len(PROMPT) - 1
    assert {span.parent.span_id for span in heard.spans} == {outer.get_span_context().span_id}


def test_without_opentelemetry_the_extra_is_named() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None\nimport semshare_integrations.statistics.telemetry"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "pip install '.[otel]'" in done.stderr


def test_healed_rows_are_counted_when_they_are(heard: Heard) -> None:
    engine = healing_engine()
    with busy(engine):
        report = ask(engine)
        heard.telemetry.record(report, model="tiny", operation="chat")
        assert not heard.points("semshare.healed_tokens")
    assert engine.healing.wait(60)
    [point] = heard.points("semshare.healed_tokens")
    assert point.value == report.healed_tokens > 0
    assert point.attributes["gen_ai.request.model"] == "tiny"
