"""A stream whose consumer leaves, and a task that is cancelled, have been computed: statistics count them."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.llms import ChatMessage
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReuseReport, SemShareEngine
from semshare_integrations.adapter import in_thread
from semshare_integrations.langchain import ChatSemShare, SemShareCallbackHandler, SemShareLLM, get_semshare_callback
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from semshare_integrations.llama_index import get_semshare_callback as llama_index_callback

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "The river ran past the old mill and under the bridge."


@pytest.fixture
def engine(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareEngine:
    return SemShareEngine(model, tokenizer)


def until(reports: Callable[[], list[ReuseReport]], count: int = 1) -> list[ReuseReport]:
    """The reports, once there are as many: an abandoned thread tells them a moment later."""
    for _ in range(500):
        if len(reports()) >= count:
            break
        time.sleep(0.01)
    return reports()


def leave(stream: Any) -> None:
    with closing(stream) as pieces:
        next(pieces)


async def aleave(stream: Any) -> None:
    async with aclosing(stream) as pieces:
        async for _ in pieces:
            break


def test_the_engine_tells_of_a_stream_that_was_left(engine: SemShareEngine) -> None:
    told: list[ReuseReport] = []
    leave(engine.stream(PROMPT, max_new_tokens=400, on_left=told.append))
    assert [report.prompt_tokens for report in told] == [len(PROMPT)]
    assert 0 < told[0].generated_tokens < 400


def test_a_stream_read_to_its_end_is_not_told_twice(engine: SemShareEngine) -> None:
    told: list[ReuseReport] = []
    *_, last = engine.stream(PROMPT, max_new_tokens=3, on_left=told.append)
    assert last.report is not None
    stream = engine.stream(PROMPT, max_new_tokens=3, on_left=told.append)
    while next(stream).report is None:
        pass
    stream.close()  # with the last piece in hand
    assert told == []


@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_langchain_counts_a_stream_that_was_left(kind: Any, engine: SemShareEngine) -> None:
    llm = kind(engine=engine, max_new_tokens=400)
    with get_semshare_callback() as outer, get_semshare_callback() as inner:
        leave(llm.stream(PROMPT))
        llm.invoke("Another call.", max_new_tokens=1)
    for calls in (outer, inner):
        left, whole = calls.reports
        assert len(left.token_sources) == left.prompt_tokens >= len(PROMPT)
        assert left.generated_tokens < 400
        assert whole.generated_tokens == 1


@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_langchain_counts_an_async_stream_that_was_left(kind: Any, engine: SemShareEngine) -> None:
    llm = kind(engine=engine, max_new_tokens=400)
    calls = SemShareCallbackHandler()
    asyncio.run(aleave(llm.astream(PROMPT, config={"callbacks": [calls]})))
    assert len(until(lambda: calls.reports)) == 1


@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_langchain_counts_a_task_that_was_cancelled(kind: Any, engine: SemShareEngine) -> None:
    llm = kind(engine=engine, max_new_tokens=2000)
    calls = SemShareCallbackHandler()

    async def cancelled() -> None:
        task = asyncio.create_task(llm.ainvoke(PROMPT, config={"callbacks": [calls]}))
        while not engine._lock.locked():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert len(until(lambda: calls.reports)) == 1


@pytest.mark.parametrize("kind", [SemShareLLM, ChatSemShare])
def test_a_consumer_that_leaves_with_the_last_piece_is_counted_once(kind: Any, engine: SemShareEngine) -> None:
    calls = SemShareCallbackHandler()
    llm = kind(engine=engine, max_new_tokens=3)
    with closing(llm.stream(PROMPT, config={"callbacks": [calls]})) as chunks:
        for chunk in chunks:
            info = chunk.response_metadata if kind is ChatSemShare else chunk
            if kind is ChatSemShare and "semshare" in info:
                break
    assert len(calls.reports) == 1


@pytest.mark.parametrize("way", ["stream_complete", "stream_chat"])
def test_llama_index_counts_a_stream_that_was_left(way: str, engine: SemShareEngine) -> None:
    llm = LlamaIndexLLM(engine=engine, max_new_tokens=400)
    asked: Any = PROMPT if way == "stream_complete" else [ChatMessage(PROMPT)]
    with llama_index_callback() as calls:
        leave(getattr(llm, way)(asked))
    (left,) = calls.reports
    assert 0 < left.generated_tokens < 400


@pytest.mark.parametrize("way", ["astream_complete", "astream_chat"])
def test_llama_index_counts_an_async_stream_that_was_left(way: str, engine: SemShareEngine) -> None:
    llm = LlamaIndexLLM(engine=engine, max_new_tokens=400)
    asked: Any = PROMPT if way == "astream_complete" else [ChatMessage(PROMPT)]

    async def run() -> None:
        await aleave(await getattr(llm, way)(asked))

    with llama_index_callback() as calls:
        asyncio.run(run())
    assert len(until(lambda: calls.reports)) == 1


def test_an_item_that_was_taken_at_once_is_not_told_as_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that hands items on asked whether the consumer had left after the consumer had taken the item."""
    handed_on, left = threading.Event(), threading.Event()

    class SlowLock:
        """Given back, it keeps the thread that hands on the last item until the consumer has left."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._times = 0

        def __enter__(self) -> None:
            self._lock.acquire()

        def __exit__(self, *error: object) -> None:
            self._lock.release()
            if threading.current_thread().name == "semshare-async":
                self._times += 1
                if self._times == 2:
                    handed_on.set()
                    left.wait(20)

    module = sys.modules["semshare_integrations.adapter.in_thread"]
    ours = SimpleNamespace(**{**vars(threading), "Lock": SlowLock})
    monkeypatch.setattr(module, "threading", ours)
    untaken: list[int] = []

    def items(closed: threading.Event) -> Iterator[int]:
        yield from (1, 2)

    async def main() -> list[int]:
        taken = []
        async with aclosing(in_thread(items, untaken.append)) as pieces:
            async for item in pieces:
                taken.append(item)
                if item == 2:
                    break
                await asyncio.to_thread(handed_on.wait, 20)
        left.set()
        return taken

    assert asyncio.run(main()) == [1, 2]
    for thread in threading.enumerate():
        if thread.name == "semshare-async":
            thread.join(20)
    assert untaken == []
