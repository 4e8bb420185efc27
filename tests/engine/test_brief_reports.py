"""What messages, events and traces carry of a report is small, whatever the prompt; who listens gets all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReusePolicy, ReuseReport
from semshare_core.report.token_runs import MOST_RUNS, runs_of, tokens_of
from semshare_integrations.langchain import ChatSemShare, SemShareLLM, get_semshare_callback
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from semshare_integrations.llama_index import get_semshare_callback as llama_index_callback
from semshare_integrations.llama_index.events import SemShareReuseEvent
from semshare_integrations.statistics.recent import brief, whole_report

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = "The river ran past the old mill and the miller's daughter counted the boats. " * 26
FEW_KILOBYTES = 5000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=MOST_RUNS))
def test_runs_tell_every_token(fates: list[tuple[int, int]]) -> None:
    sources, recomputed = [each for each, _ in fates], [each for _, each in fates]
    assert tokens_of(runs_of(sources, recomputed)) == (sources, recomputed)


def scattered(n: int) -> ReuseReport:
    """A call of which every second token was recomputed: as many runs as tokens."""
    return ReuseReport(
        outcome="semantic",
        level="fast",
        prompt_tokens=n,
        moved_tokens=n,
        recomputed_tokens=n // 2,
        token_sources=[2] * n,
        token_recomputed=[0, 1] * (n // 2),
    )


@pytest.mark.parametrize("n", [2, 4000, 100_000])
def test_a_report_of_many_short_runs_is_brief_and_comes_back_whole(n: int) -> None:
    report = scattered(n)
    told = brief(report)
    assert len(json.dumps(told)) < FEW_KILOBYTES
    found = whole_report(json.loads(json.dumps(told)))
    assert found == report
    assert found is not report
    elsewhere = ReuseReport.model_validate(told)  # in another process, or long after
    assert elsewhere.recomputed_tokens == n // 2
    assert elsewhere.token_sources == (report.token_sources if n <= MOST_RUNS else [])
    assert elsewhere._repr_html_()


@pytest.fixture
def settings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {"model": model, "tokenizer": tokenizer, "max_new_tokens": 2, "reuse": ReusePolicy(recompute_ratio=0.3)}


def test_a_message_of_langchain_carries_a_few_kilobytes(settings: dict[str, Any]) -> None:
    llm = ChatSemShare(**settings)
    with get_semshare_callback() as calls:
        llm.invoke(LONG)
        answer = llm.invoke(f"Now again. {LONG}")
        *_, streamed = llm.stream(f"Once more. {LONG}")
    assert len(answer.model_dump_json()) < FEW_KILOBYTES
    assert len(streamed.model_dump_json()) < FEW_KILOBYTES
    for report in calls.reports:
        assert len(report.token_sources) == len(report.token_recomputed) == report.prompt_tokens > len(LONG)
        assert sum(report.token_recomputed) == report.recomputed_tokens
    assert [report.outcome for report in calls.reports][1:] == ["semantic"] * 2
    assert ReuseReport.model_validate(answer.response_metadata["semshare"]).id == calls.reports[1].id


def test_a_generation_of_langchain_carries_a_few_kilobytes(settings: dict[str, Any]) -> None:
    llm = SemShareLLM(**settings)
    with get_semshare_callback() as calls:
        result = llm.generate([LONG, f"Now again. {LONG}"])
    for (generation,), report in zip(result.generations, calls.reports, strict=True):
        assert len(json.dumps(generation.generation_info)) < FEW_KILOBYTES
        assert len(report.token_sources) == report.prompt_tokens


def test_raw_and_events_of_llama_index_carry_a_few_kilobytes(settings: dict[str, Any]) -> None:
    llm = LlamaIndexLLM(**settings)
    with llama_index_callback() as calls:
        llm.complete(LONG)
        answer = llm.complete(f"Now again. {LONG}")
    assert len(json.dumps(answer.raw)) < FEW_KILOBYTES
    report = calls.reports[1]
    assert len(report.token_sources) == report.prompt_tokens
    event = SemShareReuseEvent(report=report, model="tiny", operation="chat")
    assert len(event.model_dump_json()) < FEW_KILOBYTES
    assert event.report is report
