"""SemShareLLM in an event loop: the same answers, a loop that keeps running, an engine freed by whoever leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from contextlib import aclosing
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from model_gates import WAIT, Gate, answered_beside_a_free_loop, gate_in
from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.adapter import in_thread
from semshare_integrations.langchain import SemShareLLM

pytestmark = pytest.mark.usefixtures("one_thread")

NO_LETTERS = [token for token in range(259) if not ord("a") <= token <= ord("z")]
PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=20)
    assert llm.engine is not None, "built here, so that gates count the passes of calls alone"
    return llm


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), WAIT))


# The bridge


def counting(told: list[tuple[str, int]], upto: int) -> Generator[int, None, None]:
    """Counts, and notes in which thread it runs and ends."""
    try:
        for number in range(upto):
            told.append(("next", threading.get_ident()))
            yield number
    finally:
        told.append(("end", threading.get_ident()))


def test_items_come_in_order_from_one_other_thread() -> None:
    told: list[tuple[str, int]] = []

    async def main() -> list[int]:
        return [item async for item in in_thread(lambda _: counting(told, 50))]

    assert run(main) == list(range(50))
    assert [what for what, _ in told] == ["next"] * 50 + ["end"]
    assert len({thread for _, thread in told}) == 1
    assert told[0][1] != threading.get_ident()


def test_an_error_reaches_the_one_who_awaits() -> None:
    def failing() -> Generator[int, None, None]:
        yield 1
        raise KeyError("lost")

    async def main() -> None:
        items = in_thread(lambda _: failing())
        assert await anext(items) == 1
        with pytest.raises(KeyError, match="lost"):
            await anext(items)

    run(main)


def test_closing_ends_the_generator_in_its_thread() -> None:
    told: list[tuple[str, int]] = []

    async def main() -> None:
        async with aclosing(in_thread(lambda _: counting(told, 10**9))) as items:
            assert await anext(items) == 0
        while told[-1][0] != "end":
            await asyncio.sleep(0.001)

    run(main)
    assert len({thread for _, thread in told}) == 1


def test_a_thread_outliving_its_loop_ends_quietly() -> None:
    gate = Gate()

    def slow() -> Generator[int, None, None]:
        yield 1
        gate()
        yield 2

    threads: list[threading.Thread] = []

    async def main() -> None:
        async with aclosing(in_thread(lambda _: slow())) as items:
            assert await anext(items) == 1
            threads.extend(each for each in threading.enumerate() if each.name == "semshare-async")

    run(main)
    gate.opened.set()
    for thread in threads:
        thread.join(WAIT)  # an error in it would fail the test through pytest's thread-exception check
    assert threads
    assert not any(thread.is_alive() for thread in threads)


# The same answers


def test_ainvoke_is_invoke(llm: SemShareLLM) -> None:
    async def main() -> str:
        return await llm.ainvoke(PROMPT, suppress_tokens=NO_LETTERS)

    assert run(main) == llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)


def test_agenerate_is_generate(llm: SemShareLLM) -> None:
    prompts = [PROMPT, PROMPT + " And then?", "Short"]
    fresh = SemShareLLM(
        model=llm.engine.model, tokenizer=llm.engine.tokenizer, max_new_tokens=20, model_id=llm.model_id
    )

    async def main() -> Any:
        return await llm.agenerate(prompts, stop=["q"], suppress_tokens=NO_LETTERS)

    there, here = run(main), fresh.generate(prompts, stop=["q"], suppress_tokens=NO_LETTERS)
    assert there.llm_output == here.llm_output
    for one, other in zip(there.generations, here.generations, strict=True):
        assert one[0].text == other[0].text
        assert one[0].generation_info["finish_reason"] == other[0].generation_info["finish_reason"]
        for name in ("outcome", "prefix_tokens", "prompt_tokens", "generated_tokens"):
            assert one[0].generation_info["semshare"][name] == other[0].generation_info["semshare"][name]
    assert there.generations[1][0].generation_info["semshare"]["prefix_tokens"] >= len(PROMPT)


def test_astream_is_stream_and_invoke(llm: SemShareLLM) -> None:
    async def main() -> list[str]:
        return [piece async for piece in llm.astream(PROMPT, suppress_tokens=NO_LETTERS)]

    pieces = run(main)
    assert pieces == list(llm.stream(PROMPT, suppress_tokens=NO_LETTERS))
    assert "".join(pieces) == llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)


def test_astream_with_a_stop_string(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)

    async def main() -> str:
        bound = llm.bind(stop=[whole[6:9]], suppress_tokens=NO_LETTERS)
        return "".join([piece async for piece in bound.astream(PROMPT)])

    assert run(main) == whole[: whole.index(whole[6:9])]


def test_only_the_last_streamed_chunk_has_statistics(llm: SemShareLLM) -> None:
    async def main() -> list[Any]:
        return [chunk async for chunk in llm._astream(PROMPT, suppress_tokens=NO_LETTERS)]

    chunks = run(main)
    assert [chunk.generation_info is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].generation_info["semshare"]["generated_tokens"] == 20


def test_events_of_a_chain_carry_the_statistics(llm: SemShareLLM) -> None:
    async def main() -> list[Any]:
        events = (RunnableLambda(str) | llm).astream_events(PROMPT, version="v2", include_types=["llm"])
        return [event async for event in events]

    events = run(main)
    chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_llm_stream"]
    assert "".join(chunk.text for chunk in chunks) == llm.invoke(PROMPT)
    [end] = [event for event in events if event["event"] == "on_llm_end"]
    [[generation]] = end["data"]["output"]["generations"]
    assert generation["generation_info"] == chunks[-1].generation_info
    assert generation["generation_info"]["semshare"]["prompt_tokens"] == len(PROMPT)


def test_concurrent_calls_answer_as_if_alone(llm: SemShareLLM) -> None:
    prompts = [f"{PROMPT[: 60 + 5 * number]} {number}" for number in range(8)]
    alone = [llm.invoke(prompt, reuse="off") for prompt in prompts]

    async def together() -> list[str]:
        return await asyncio.gather(*(llm.ainvoke(prompt, reuse="exact") for prompt in prompts))

    async def streamed_together() -> list[str]:
        async def one(prompt: str) -> str:
            return "".join([piece async for piece in llm.astream(prompt, reuse="exact")])

        return await asyncio.gather(*map(one, prompts))

    async def batched() -> list[str]:
        return await llm.abatch(prompts, reuse="exact")

    assert len(set(alone)) == len(alone)
    assert run(together) == run(streamed_together) == run(batched) == alone


def test_errors_reach_the_caller(llm: SemShareLLM) -> None:
    async def streamed(prompt: str, **settings: Any) -> None:
        async for _ in llm.astream(prompt, **settings):
            raise AssertionError("something was streamed")

    async def main() -> None:
        for call in (llm.ainvoke, streamed):
            with pytest.raises(ConfigError, match="max_tokenz"):
                await call(PROMPT, max_tokenz=3)
            with pytest.raises(ConfigError, match="must be a list"):
                await call(PROMPT, stop="END")
            with pytest.raises(PromptError, match="context"):
                await call("x" * 5000)

    run(main)


# The loop keeps running


@pytest.mark.parametrize("streamed", [False, True])
def test_the_loop_runs_while_the_model_does(llm: SemShareLLM, model: PreTrainedModel, streamed: bool) -> None:
    """The model waits for the loop. Were the loop waiting for the model, the gate would give up."""

    async def answer() -> str:
        if streamed:
            return "".join([piece async for piece in llm.astream(PROMPT, suppress_tokens=NO_LETTERS)])
        return await llm.ainvoke(PROMPT, suppress_tokens=NO_LETTERS)

    for stop_at in (1, 5):  # while prefilling, while decoding
        assert answered_beside_a_free_loop(model, answer, stop_at) == llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)


def test_the_loop_runs_while_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch, model: Any, tokenizer: Any) -> None:
    gate = Gate()

    def from_pretrained(model_id: str, **settings: Any) -> SemShareEngine:
        gate()
        return SemShareEngine(model, tokenizer)

    monkeypatch.setattr(SemShareEngine, "from_pretrained", from_pretrained)
    llm = SemShareLLM(model_id="demo", max_new_tokens=3)

    async def main() -> list[str]:
        tasks = [asyncio.create_task(llm.ainvoke(PROMPT)) for _ in range(3)]
        await gate.until_reached()
        gate.opened.set()
        return await asyncio.gather(*tasks)

    assert len(set(asyncio.run(main()))) == 1
    assert gate.passes == 1
    assert not gate.gave_up


# Leaving early


async def leave(llm: SemShareLLM, how: str, gate: Gate) -> None:
    """Begin a long answer, and turn away from it while the model stands still in the midst of it."""
    settings = {"max_new_tokens": 3000, "suppress_tokens": NO_LETTERS}
    if how == "close":
        pieces = llm.astream(PROMPT, **settings)
        await anext(pieces)
        await gate.until_reached()
        await pieces.aclose()  # type: ignore[attr-defined]
    else:
        task = asyncio.create_task(llm.ainvoke(PROMPT, **settings))
        await gate.until_reached()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0.01)  # the loop closes what astream left behind


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_leaving_early_frees_the_engine(llm: SemShareLLM, model: PreTrainedModel, how: str) -> None:
    async def main() -> Gate:
        with gate_in(model, stop_at=10) as gate:
            await leave(llm, how, gate)
            assert gate.passes == 10  # nobody waited for the model to come to an end
            gate.opened.set()
            await llm.ainvoke("Another question", max_new_tokens=1, reuse="off")
        return gate

    gate = run(main)
    assert not gate.gave_up
    assert gate.passes < 100  # of 3000, had it gone on
