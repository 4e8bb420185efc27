"""The callback handler and the context manager: every call is counted once, and only where it belongs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReuseReport
from semshare_core.errors import ConfigError
from semshare_integrations.langchain import (
    ChatSemShare,
    ReuseTotals,
    SemShareCallbackHandler,
    SemShareLLM,
    get_semshare_callback,
)

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    return SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=3, reuse="exact")


async def streamed(llm: Any, prompt: str, config: Any) -> None:
    async for _ in llm.astream(prompt, config=config):
        pass


WAYS: dict[str, Callable[[Any, str, Any], Any]] = {
    "invoke": lambda llm, prompt, config: llm.invoke(prompt, config=config),
    "batch": lambda llm, prompt, config: llm.batch([prompt], config=config),
    "stream": lambda llm, prompt, config: list(llm.stream(prompt, config=config)),
    "ainvoke": lambda llm, prompt, config: asyncio.run(llm.ainvoke(prompt, config=config)),
    "abatch": lambda llm, prompt, config: asyncio.run(llm.abatch([prompt], config=config)),
    "astream": lambda llm, prompt, config: asyncio.run(streamed(llm, prompt, config)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chained", [False, True])
def test_every_way_of_calling_is_counted_once(llm: SemShareLLM, way: str, chained: bool) -> None:
    runnable: Any = llm
    if chained:
        runnable = RunnableLambda(str) | llm | StrOutputParser()
    handler = SemShareCallbackHandler()
    for _ in range(2):
        WAYS[way](runnable, PROMPT, {"callbacks": [handler]})
    first, second = handler.reports
    assert (first.outcome, first.new_tokens, first.generated_tokens) == ("miss", len(PROMPT), 3)
    assert (second.outcome, second.prefix_tokens) == ("prefix", len(PROMPT) - 1)


@pytest.mark.parametrize("way", WAYS)
def test_the_context_manager_sees_every_way_of_calling(llm: SemShareLLM, way: str) -> None:
    with get_semshare_callback() as inside:
        WAYS[way](llm, PROMPT, None)
    WAYS[way](llm, PROMPT, None)
    assert [report.outcome for report in inside.reports] == ["miss"]


def test_a_batch_is_counted_by_prompt(llm: SemShareLLM) -> None:
    handler = SemShareCallbackHandler()
    prompts = [PROMPT[:length] for length in (40, 50, 60, 70, 80)]
    llm.batch(prompts, config={"callbacks": [handler]})
    assert [report.prompt_tokens for report in handler.reports] == [40, 50, 60, 70, 80]
    assert [report.prefix_tokens for report in handler.reports] == [0, 40, 50, 60, 70]
    llm.batch(prompts, config={"callbacks": [handler], "max_concurrency": 2})
    assert handler.totals().calls == 10


def test_a_handler_of_the_object(model: Any, tokenizer: Any) -> None:
    handler = SemShareCallbackHandler()
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=2, callbacks=[handler])
    llm.invoke(PROMPT)
    llm.invoke(PROMPT, config={"callbacks": [handler]})  # the same one twice counts once
    assert len(handler.reports) == 2


def test_a_handler_given_and_in_context_counts_once(llm: SemShareLLM) -> None:
    with get_semshare_callback() as handler:
        llm.invoke(PROMPT, config={"callbacks": [handler]})
    assert len(handler.reports) == 1


def test_threads_of_a_chain_are_inside_the_context(llm: SemShareLLM) -> None:
    chain = PromptTemplate.from_template("{question} " + PROMPT) | RunnableParallel(one=llm, two=llm, three=llm)
    with get_semshare_callback() as inside:
        chain.batch([{"question": str(number)} for number in range(4)])
    assert len(inside.reports) == 12


def test_threads_of_ones_own_count_in_a_copy_of_the_context(llm: SemShareLLM) -> None:
    with get_semshare_callback() as calls:
        for target in (partial(llm.invoke, PROMPT), partial(copy_context().run, llm.invoke, PROMPT)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert len(calls.reports) == 1


def test_nested_contexts(llm: SemShareLLM) -> None:
    with get_semshare_callback() as outer:
        llm.invoke("one")
        with get_semshare_callback() as inner:
            llm.invoke("three")
        llm.invoke("twenty")
    assert [report.prompt_tokens for report in inner.reports] == [5]
    assert [report.prompt_tokens for report in outer.reports] == [3, 5, 6]


def test_a_context_within_a_chain_within_a_context(llm: SemShareLLM) -> None:
    inner: list[SemShareCallbackHandler] = []

    def step(text: str) -> str:
        with get_semshare_callback() as handler:
            inner.append(handler)
            return llm.invoke(text)

    with get_semshare_callback() as outer:
        RunnableLambda(step).invoke("one")
    assert [len(handler.reports) for handler in (*inner, outer)] == [1, 1]


def test_the_handler_goes_where_the_config_goes(llm: SemShareLLM) -> None:
    def step(text: str, config: RunnableConfig) -> str:
        with ThreadPoolExecutor(1) as thread:  # which knows nothing of the context
            return thread.submit(llm.invoke, text, config).result()

    with get_semshare_callback() as inside:
        RunnableLambda(step).invoke("one")
    assert len(inside.reports) == 1


def test_tasks_have_contexts_of_their_own(llm: SemShareLLM) -> None:
    async def counted(prompt: str) -> list[int]:
        with get_semshare_callback() as mine:
            await asyncio.gather(llm.ainvoke(prompt), llm.ainvoke(prompt))
        return [report.prompt_tokens for report in mine.reports]

    async def main() -> list[list[int]]:
        return await asyncio.gather(counted("one"), counted("three"))

    assert asyncio.run(main()) == [[3, 3], [5, 5]]


def test_an_error_ends_the_context(llm: SemShareLLM) -> None:
    seen: list[SemShareCallbackHandler] = []

    def fails() -> None:
        with get_semshare_callback() as inside:
            seen.append(inside)
            llm.invoke(PROMPT, max_tokenz=1)

    with pytest.raises(ConfigError):
        fails()
    llm.invoke(PROMPT)
    assert seen[0].reports == []


@pytest.mark.parametrize("way", ["invoke", "stream"])
@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_cached_answers_are_no_calls(kind: Any, way: str, model: Any, tokenizer: Any) -> None:
    llm = kind(model=model, tokenizer=tokenizer, max_new_tokens=2, cache=InMemoryCache())
    with get_semshare_callback() as inside:
        first = llm.invoke(PROMPT)
        for _ in range(2):
            again = llm.invoke(PROMPT) if way == "invoke" else list(llm.stream(PROMPT))
    calls = 1 if way == "invoke" else 3  # LangChain answers no streams out of its cache
    assert len(inside.reports) == calls
    if way == "invoke":
        assert getattr(again, "content", again) == getattr(first, "content", first)


def test_other_models_are_passed_over() -> None:
    with get_semshare_callback() as inside:
        assert FakeListLLM(responses=["hello"]).invoke("hi") == "hello"
    assert inside.reports == []


def test_reports_of_chat_models_count() -> None:
    report = ReuseReport(outcome="prefix", level="exact", prompt_tokens=5, prefix_tokens=4, new_tokens=1)
    message = AIMessage("hello", response_metadata={"semshare": report.model_dump(mode="json")})
    handler = SemShareCallbackHandler()
    handler.on_llm_end(
        LLMResult(generations=[[ChatGeneration(message=message)], [Generation(text="x")]]), run_id=uuid4()
    )
    assert handler.reports == [report]


REPORTS = [
    ReuseReport(
        outcome="miss", level="balanced", prompt_tokens=10, new_tokens=10, recomputed_tokens=10, ttft_ms=100.0,
        generated_tokens=2,
    ),
    ReuseReport(
        outcome="semantic", level="balanced", prompt_tokens=20, prefix_tokens=4, moved_tokens=8, fuzzy_tokens=5,
        new_tokens=3, recomputed_tokens=6, recompute_ratio=0.25, ttft_ms=30.5, generated_tokens=7,
        kv_bytes=60, kv_bytes_full=90,
    ),
    ReuseReport(
        outcome="miss", level="balanced", prompt_tokens=1, new_tokens=1, recomputed_tokens=1, ttft_ms=0.5,
        generated_tokens=1,
    ),
]  # fmt: skip


def handler_with(reports: list[ReuseReport]) -> SemShareCallbackHandler:
    handler = SemShareCallbackHandler()
    for report in reports:
        info = {"semshare": report.model_dump(mode="json")}
        handler.on_llm_end(LLMResult(generations=[[Generation(text="", generation_info=info)]]), run_id=uuid4())
    return handler


def test_totals() -> None:
    handler = handler_with(REPORTS)
    assert handler.reports == REPORTS
    assert handler.totals() == ReuseTotals(
        calls=3,
        outcomes={"miss": 2, "semantic": 1},
        prompt_tokens=31,
        prefix_tokens=4,
        moved_tokens=8,
        fuzzy_tokens=5,
        new_tokens=14,
        recomputed_tokens=17,
        generated_tokens=10,
        mean_recompute_ratio=0.75,
        ttft_ms=131.0,
        kv_bytes=60,
        kv_bytes_full=90,
        prefill_seconds_saved_estimate=None,
    )


def test_the_summary_has_totals_and_a_line_per_call() -> None:
    head, columns, *lines = handler_with(REPORTS).summary().splitlines()
    assert head == (
        "3 calls (2 miss, 1 semantic; hit rate 33%, rows served 45%): 31 prompt tokens = 4 prefix + 8 moved + "
        "5 fuzzy + 14 new; mean recompute ratio 0.75, total TTFT 131 ms, KV 0.0 of 0.0 MiB"
    )
    assert columns.split() == ["call", "outcome", "prompt", "prefix", "moved", "fuzzy", "new", "ratio", "TTFT", "ms"]
    assert [line.split() for line in lines][1] == ["2", "semantic", "20", "4", "8", "5", "3", "0.25", "30"]
    assert len(lines) == 3
    assert len({len(line) for line in (columns, *lines)}) == 1
    assert (
        handler_with(REPORTS[:1]).summary().startswith("1 call (1 miss; hit rate 0%, rows served 0%): 10 prompt tokens")
    )


def test_no_calls_and_forgotten_calls() -> None:
    handler = SemShareCallbackHandler()
    assert handler.summary() == "no calls"
    assert handler.totals().mean_recompute_ratio is None
    handler = handler_with(REPORTS)
    handler.reports.clear()  # a copy
    assert handler.totals().calls == 3
    handler.clear()
    assert handler.totals().calls == 0


def test_the_demo_model_tells_what_it_reused(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = demo
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=8, temperature=0.0)
    notes = (
        "The ferry from Elsinore leaves at six in the morning and comes back at noon.\n"
        "A ticket costs four crowns, or two for children, and is bought on board.\n"
        "Dogs travel free of charge but must stay on the lower deck.\n"
    )
    chain = PromptTemplate.from_template(notes + "\n{question}\n") | llm | StrOutputParser()
    with get_semshare_callback() as reuse:
        chain.invoke({"question": "What does a ticket cost?"})
        chain.invoke({"question": "Where do the dogs stay?"})
    first, second = reuse.reports
    assert first.outcome == "miss"
    assert second.prefix_tokens >= len(tokenizer(notes)["input_ids"]) - 1
    assert reuse.totals().prompt_tokens == first.prompt_tokens + second.prompt_tokens
