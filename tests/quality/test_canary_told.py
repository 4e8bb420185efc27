"""What the canary finds reaches LangChain's handler, LlamaIndex's events, totals and OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from semshare_core import Canary, ReuseReport, SemShareEngine
from semshare_integrations.langchain import ChatSemShare, SemShareCallbackHandler, SemShareLLM
from semshare_integrations.llama_index import SemShareCanaryEvent, SemShareReuseEvent, get_semshare_callback
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from semshare_integrations.statistics import ReuseLog, ReuseTotals
from semshare_integrations.statistics.telemetry import Telemetry
from tiny_canary import busy, engine_of, reordered

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")

PROMPTS = [reordered("Why?"), reordered("How so?")]


@pytest.fixture
def engine() -> SemShareEngine:
    return engine_of(level="fast")


@contextmanager
def checks_wait(engine: SemShareEngine) -> Iterator[None]:
    """Checks begin only at the end, as behind other calls."""
    with busy(engine):
        yield
    assert engine.canary.wait()


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_langchains_handler_hears_of_it(engine: SemShareEngine, kind: Any, late: bool) -> None:
    class Heard(SemShareCallbackHandler):
        def on_canary(self, report: ReuseReport) -> None:
            checked.append(report)

    checked: list[ReuseReport] = []
    handler = Heard()
    llm = kind(engine=engine, max_new_tokens=4)
    if late:  # the check ends when the handler has its copy of the report already
        with checks_wait(engine):
            llm.invoke(PROMPTS[0], config={"callbacks": [handler]})
            [report] = handler.reports
            assert report.canary is not None
            assert report.canary.status == "pending"
            assert handler.totals().canary_checked == 0
            assert any(line.endswith("pending") for line in handler.summary().splitlines())
    else:  # the check ended before
        made = llm.generate([PROMPTS[0]]) if kind is SemShareLLM else llm.generate([[HumanMessage(PROMPTS[0])]])
        assert engine.canary.wait()
        handler.on_llm_end(made, run_id=made.run[0].run_id)
        [report] = handler.reports
    [found] = engine.canary.results()
    assert found.kl is not None
    assert report.canary == found
    assert checked == [report]
    totals = handler.totals()
    assert (totals.canary_checked, totals.canary_broken) == (1, 0)
    assert totals.canary_mean_kl == totals.canary_max_kl == found.kl
    assert f"KL of 1 call mean {found.kl:.3f}" in handler.summary()
    assert any(line.endswith(f"{found.kl:.3f}") for line in handler.summary().splitlines())


class Listener(BaseEventHandler):
    heard: list[Any] = []  # noqa: RUF012 - pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.heard.append(event)


@pytest.mark.parametrize("way", ["complete", "stream_complete"])
def test_llama_index_has_an_event_for_it(engine: SemShareEngine, way: str) -> None:
    llm, listener = LlamaIndexLLM(engine=engine, max_new_tokens=4), Listener()
    dispatcher = get_dispatcher()
    dispatcher.add_event_handler(listener)
    try:
        with get_semshare_callback() as log, checks_wait(engine):
            answer = getattr(llm, way)(PROMPTS[0])
            if way == "stream_complete":
                *_, answer = answer
    finally:
        dispatcher.event_handlers.remove(listener)
    assert answer.raw["semshare"]["canary"]["status"] == "pending"
    [first] = [event for event in listener.heard if isinstance(event, SemShareReuseEvent)]
    [second] = [event for event in listener.heard if isinstance(event, SemShareCanaryEvent)]
    assert listener.heard.index(first) < listener.heard.index(second)
    assert [second.canary] == engine.canary.results()
    assert second.canary.id == answer.raw["semshare"]["canary"]["id"]
    assert (second.model, second.operation, second.span_id) == (first.model, first.operation, first.span_id)
    assert log.reports[0].canary == second.canary
    assert log.totals().canary_checked == 1


def test_opentelemetry_measures_it(engine: SemShareEngine) -> None:
    reader = InMemoryMetricReader()
    telemetry = Telemetry(meter_provider=MeterProvider([reader]))
    with checks_wait(engine):
        for prompt in PROMPTS:
            report = engine.generate(prompt, max_new_tokens=4, store=False).report
            telemetry.record(report, model="tiny", operation="chat")
    data = reader.get_metrics_data()
    assert data is not None
    points = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    [divergence] = points["semshare.canary.kl"]
    assert divergence.count == 2
    assert divergence.sum == pytest.approx(sum(each.kl or 0 for each in engine.canary.results()))
    assert (divergence.attributes["semshare.level"], divergence.attributes["semshare.served_level"]) == ("fast", "fast")
    [checks] = points["semshare.canary.checks"]
    assert checks.value == 2
    assert checks.attributes["semshare.canary.broken"] is False
    assert checks.attributes["semshare.canary.status"] == "measured"


def told(kl: float | None, status: Any, broken: bool | None) -> ReuseReport:
    canary = Canary(id=str(kl), level="fast", served_level="fast", kl=kl, status=status, broken=broken)
    return ReuseReport(outcome="semantic", level="fast", prompt_tokens=3, canary=canary)


def test_totals_count_what_was_measured() -> None:
    unchecked = ReuseReport(outcome="miss", level="fast", prompt_tokens=3)
    reports = [told(0.1, "measured", False), told(0.3, "measured", True), told(None, "dropped", None), unchecked]
    totals = ReuseTotals.of(reports)
    assert (totals.canary_checked, totals.canary_broken) == (2, 1)
    assert (totals.canary_mean_kl, totals.canary_max_kl) == (pytest.approx(0.2), 0.3)
    assert "KL of 2 calls mean 0.200, largest 0.300, 1 beyond the bound" in totals.summary()
    log = ReuseLog()
    log.add(*reports)
    _, columns, *lines = log.summary().splitlines()
    assert columns.endswith("KL")
    assert [line.split()[-1] for line in lines[:3]] == ["0.100", "0.300!", "dropped"]
    assert "<th>KL</th>" in log._repr_html_()
    empty = ReuseTotals.of([unchecked])
    assert (empty.canary_checked, empty.canary_max_kl) == (0, None)
    assert "canary" not in empty.summary()
