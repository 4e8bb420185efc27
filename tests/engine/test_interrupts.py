"""A call that is cancelled, or whose time is up, ends within one layer wherever it is, and leaves nothing behind.

Layers are counted instead of seconds: whoever calls for an end does so when a layer begins, and no other begins after.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from llama_index.core.llms import ChatMessage

from model_gates import WAIT, Gate, gate_in
from pooled import books_balance, rows_of
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import CallCancelledError, CallTimeoutError, ConfigError
from semshare_core.model.cache_argument import with_cache
from semshare_core.prefill.cache import MergedCache
from semshare_core.process import interrupt
from semshare_integrations.adapter import in_thread
from semshare_integrations.langchain import ChatSemShare, SemShareLLM
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, reference_of

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")

TEXT = "\n\n".join(PARAGRAPHS[:2])
REORDERED = "\n\n".join([*reversed(PARAGRAPHS[:3]), "When does the ferry leave?"])
NO_END = {"suppress_tokens": [256]}


class Clock:
    """The time, or later if a test says so."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(interrupt, "time", clock)
    return clock


watching: list[Callable[[], None]] = []
"""What is told of every layer that begins. The hooks stay: rows made before a hook came do not serve behind it."""


@pytest.fixture(scope="module")
def shared() -> SemShareEngine:
    def tell(*_: Any) -> None:
        for each in watching:
            each()

    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(min_tokens=1))
    for layer in engine.model.model.layers:
        layer.register_forward_pre_hook(tell)
    return engine


@pytest.fixture
def engine(shared: SemShareEngine) -> Iterator[SemShareEngine]:
    shared.pool.clear()
    yield shared
    assert_nothing_is_left(shared)


def assert_nothing_is_left(engine: SemShareEngine) -> None:
    model = engine.model
    assert not engine._lock.locked()
    assert not [thread for thread in threading.enumerate() if thread.name == "semshare-stream"]
    assert model.config._attn_implementation == "sdpa"
    assert model.generation_config.cache_implementation is None
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    assert sum(hooks) == len(model.model.layers), "ours are gone, the test's are there"
    assert books_balance(engine.pool)


@contextmanager
def layers_counted(at: int = 0, what: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """The numbers of the layers that begin; when the ``at``-th one does, something happens."""
    begun: list[int] = []

    def note() -> None:
        begun.append(len(begun) + 1)
        if len(begun) == at:
            what()

    watching.append(note)
    try:
        yield begun
    finally:
        watching.remove(note)


def generate(engine: SemShareEngine, prompt: str = TEXT, **settings: Any) -> Any:
    return engine.generate(prompt, **({"max_new_tokens": 3, "reuse": "exact"} | settings))


def stream(engine: SemShareEngine, **settings: Any) -> Any:
    return list(engine.stream(TEXT, max_new_tokens=3, reuse="exact", **settings))


STAGES: dict[str, Callable[..., Any]] = {
    "a miss": generate,
    "a miss, streamed": stream,
    "behind a prefix": lambda engine, **limits: generate(engine, PARAGRAPHS[0] + "\n\n" + PARAGRAPHS[3], **limits),
    "selective": lambda engine, **limits: generate(engine, REORDERED, reuse=ReusePolicy(recompute_ratio=0.4), **limits),
    "the paper's, retained": lambda engine, **limits: generate(engine, REORDERED, reuse=ReusePolicy.paper(), **limits),
    "prefill": lambda engine, **limits: engine.prefill(TEXT, **limits),
    "warm": lambda engine, **limits: engine.warm([PARAGRAPHS[2], PARAGRAPHS[3]], **limits),
}


@pytest.mark.parametrize("way", ["cancel", "timeout"])
@pytest.mark.parametrize("stage", STAGES)
def test_no_layer_begins_after_the_end_was_called_for(
    engine: SemShareEngine, clock: Clock, stage: str, way: str
) -> None:
    """At every layer of every pass of the call: prefill, probe, watching, decoding."""
    run = STAGES[stage]

    def prepare() -> int:
        engine.pool.clear()
        engine.warm([PARAGRAPHS[0], "\n\n".join(PARAGRAPHS[:3])])
        if "miss" in stage or stage in ("prefill", "warm"):
            engine.pool.clear()
        clock.ahead = 0.0
        return engine.pool.stats().entries

    prepare()
    with layers_counted() as begun:
        expected = run(engine)
    if "selective" in stage or "paper" in stage:
        assert expected.report.outcome == "semantic"
    assert len(begun) >= 4
    for at in range(1, len(begun) + 1):
        entries = prepare()
        gone = threading.Event()

        def call_for_an_end(gone: threading.Event = gone) -> None:
            clock.ahead = 100.0
            gone.set()

        limits: dict[str, Any] = {"cancel": gone} if way == "cancel" else {"timeout": 50}
        with layers_counted(at, call_for_an_end) as until:
            answered = None
            with suppress(CallCancelledError if way == "cancel" else CallTimeoutError):
                answered = run(engine, **limits)
        assert len(until) == at
        assert not engine._lock.locked()
        if not answered:  # a stream that is cancelled before its first token ends without a piece
            warmed = stage == "warm" and engine.pool.stats().entries == entries + 1  # the first prompt was done
            assert engine.pool.stats().entries == entries or warmed
        else:
            last = answered[-1] if isinstance(answered, list) else answered
            assert (way, last.finish_reason) == ("cancel", "cancelled")
            assert 1 <= len(last.token_ids) < 3
            assert_rows_are_right(engine)
    prepare()
    if stage in ("a miss", "behind a prefix"):
        assert run(engine).token_ids == expected.token_ids


def assert_rows_are_right(engine: SemShareEngine) -> None:
    for entry in engine.pool._entries.chosen(None):
        if entry.account:
            continue
        for kept, computed in zip(rows_of(entry), reference_of(engine.model, entry.tokens).rows, strict=True):
            torch.testing.assert_close(kept[0], computed[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(kept[1], computed[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_the_rows_of_a_call_go_with_it_although_its_error_is_kept(
    engine: SemShareEngine, clock: Clock, stage: str
) -> None:
    """An error holds the frames that it went through, and they the cache: gigabytes in a list of failed calls."""
    engine.warm(["\n\n".join(PARAGRAPHS[:3])])
    gc.collect()
    gc.disable()
    try:
        with (
            layers_counted(3, lambda: setattr(clock, "ahead", 100.0)),
            pytest.raises(CallTimeoutError) as kept,
        ):
            STAGES[stage](engine, timeout=50)
        assert kept.value
        assert not [each for each in gc.get_objects() if type(each) is MergedCache]
    finally:
        gc.enable()


# In the queue


@contextmanager
def a_call_that_stands_still(engine: SemShareEngine) -> Iterator[Gate]:
    with gate_in(engine.model, 1) as gate:
        thread = threading.Thread(target=engine.generate, args=(PARAGRAPHS[3],), kwargs={"max_new_tokens": 1})
        thread.start()
        assert gate.reached.wait(WAIT)
        yield gate
        gate.opened.set()
        thread.join()
    assert not gate.gave_up


def test_a_call_that_waits_for_its_turn_gives_up_in_time(engine: SemShareEngine) -> None:
    with a_call_that_stands_still(engine) as gate:
        for call in (engine.generate, engine.prefill, lambda text, **more: engine.warm([text], **more)):
            with pytest.raises(TimeoutError, match=r"timeout=0\.05"):
                call(TEXT, timeout=0.05)
        with pytest.raises(CallTimeoutError):
            list(engine.stream(TEXT, timeout=0.05))
        assert gate.passes == 1
    assert engine.pool.stats().entries == 1
    assert generate(engine).report.queue_ms < 1000


def test_a_call_that_waits_for_its_turn_can_be_cancelled_and_others_wait_on(engine: SemShareEngine) -> None:
    gone = threading.Event()
    ended: list[Any] = []

    def cancelled() -> None:
        try:
            engine.generate(TEXT, cancel=gone)
        except CallCancelledError as error:
            ended.append(error)

    def patient() -> None:
        ended.append(generate(engine, store=False))

    with a_call_that_stands_still(engine):
        first, second = threading.Thread(target=cancelled), threading.Thread(target=patient)
        first.start()
        second.start()
        gone.set()
        first.join(WAIT)
        assert not first.is_alive()
        assert [type(each) for each in ended] == [CallCancelledError]
    second.join(WAIT)
    assert len(ended[1].token_ids) == 3
    assert ended[1].report.queue_ms > 0


def test_a_cancelled_call_in_the_queue_of_a_stream_yields_nothing(engine: SemShareEngine) -> None:
    gone = threading.Event()
    gone.set()
    with a_call_that_stands_still(engine):
        assert list(engine.stream(TEXT, cancel=gone)) == []


def test_the_event_that_a_caller_has_for_many_streams_is_his_own(engine: SemShareEngine) -> None:
    """The end of the first stream set it, and the second yielded nothing."""
    gone = threading.Event()
    for text in (TEXT, REORDERED):
        assert list(engine.stream(text, max_new_tokens=2, cancel=gone))[-1].report is not None
    stream = engine.stream(TEXT, cancel=gone, **NO_END)
    next(stream)
    stream.close()
    assert not gone.is_set()


# What is not lost, and what is not limited


def test_a_finished_answer_is_not_lost_when_its_time_ends_behind_it(engine: SemShareEngine, clock: Clock) -> None:
    def late(text: str) -> list[float]:
        clock.ahead = 100.0
        return [1.0, 2.0]

    own = SemShareEngine(engine.model, engine.tokenizer, embedding=late)
    answer = own.generate(TEXT, max_new_tokens=3, reuse="exact", timeout=50)
    assert (len(answer.token_ids), answer.report.stored) == (3, True)
    assert own.pool.stats().entries == 1


def test_the_callers_own_cache_has_no_limit(engine: SemShareEngine, clock: Clock) -> None:
    for policy in ("exact", ReusePolicy.paper()):
        engine.warm(["\n\n".join(PARAGRAPHS[:3])])
        clock.ahead = 0.0
        made = engine.prefill(REORDERED, reuse=policy, timeout=50, cancel=threading.Event())
        clock.ahead = 100.0
        for cache in (made.cache, copy.deepcopy(made.cache)):
            engine.model(input_ids=made.logits.argmax()[None, None], **with_cache(engine.model, cache))


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan"), float("inf")])
def test_a_timeout_is_some_seconds(engine: SemShareEngine, timeout: Any) -> None:
    for call in (engine.generate, engine.stream, engine.prefill, lambda text, **more: engine.warm([text], **more)):
        with pytest.raises(ConfigError, match="timeout="):
            call(TEXT, timeout=timeout)
    with pytest.raises(ConfigError, match=r"threading\.Event"):
        engine.generate(TEXT, cancel=True)  # type: ignore[arg-type]
    for llm in (SemShareLLM(engine=engine), ChatSemShare(engine=engine)):
        with pytest.raises(ConfigError, match="for the engine"):
            llm.invoke(TEXT, cancel=threading.Event())


# Through the frameworks

LONG = {"max_tokens": 3000, **NO_END}


async def gathered(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


async def later(pieces: Any) -> list[Any]:
    return await gathered(await pieces)


def in_langchain(kind: Any) -> dict[str, Callable[..., Any]]:
    return {
        f"{kind.__name__} invoke": lambda llm, **more: llm.invoke("Why?", **more),
        f"{kind.__name__} stream": lambda llm, **more: list(llm.stream("Why?", **more)),
        f"{kind.__name__} ainvoke": lambda llm, **more: llm.ainvoke("Why?", **more),
        f"{kind.__name__} astream": lambda llm, **more: gathered(llm.astream("Why?", **more)),
    }


ASKED = [ChatMessage("Why?")]
WAYS: dict[str, tuple[Any, Callable[..., Any]]] = {
    **{name: (kind, way) for kind in (ChatSemShare, SemShareLLM) for name, way in in_langchain(kind).items()},
    "LlamaIndex complete": (LlamaIndexLLM, lambda llm, **more: llm.complete("Why?", **more)),
    "LlamaIndex stream_complete": (LlamaIndexLLM, lambda llm, **more: list(llm.stream_complete("Why?", **more))),
    "LlamaIndex acomplete": (LlamaIndexLLM, lambda llm, **more: llm.acomplete("Why?", **more)),
    "LlamaIndex astream_complete": (LlamaIndexLLM, lambda llm, **more: later(llm.astream_complete("Why?", **more))),
    "LlamaIndex chat": (LlamaIndexLLM, lambda llm, **more: llm.chat(ASKED, **more)),
    "LlamaIndex achat": (LlamaIndexLLM, lambda llm, **more: llm.achat(ASKED, **more)),
    "LlamaIndex astream_chat": (LlamaIndexLLM, lambda llm, **more: later(llm.astream_chat(ASKED, **more))),
}


def finished(call: Any) -> Any:
    return asyncio.run(asyncio.wait_for(call, WAIT)) if asyncio.iscoroutine(call) else call


@pytest.mark.parametrize("as_field", [False, True], ids=["of the call", "field"])
@pytest.mark.parametrize("way", WAYS)
def test_a_timeout_ends_every_kind_of_call(engine: SemShareEngine, way: str, as_field: bool) -> None:
    kind, call = WAYS[way]
    llm = kind(engine=engine, timeout=0.05) if as_field else kind(engine=engine)
    with pytest.raises(TimeoutError, match=r"timeout=0\.05"):
        finished(call(llm, **LONG, **({} if as_field else {"timeout": 0.05})))
    assert finished(call(kind(engine=engine), max_tokens=2))


def test_who_sets_the_event_of_a_generator_in_a_thread_ends_its_items() -> None:
    """Once it was set, no end was ever posted, and whoever awaited the next item did so for ever."""

    def once(closed: threading.Event) -> Iterator[int]:
        yield 1
        closed.set()
        yield 2

    async def main() -> list[int]:
        return await gathered(in_thread(once, lambda item: None))

    assert finished(main()) in ([1], [1, 2])


def test_an_event_loop_that_is_closed_midway_frees_the_model(engine: SemShareEngine) -> None:
    """Nobody could read on, and the answer was generated to its end."""

    def answer(closed: threading.Event) -> Any:
        return engine.stream("Why?", max_new_tokens=3000, cancel=closed, **NO_END)

    stream = in_thread(answer, lambda piece: None)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(stream))
    loop.close()
    for thread in threading.enumerate():
        if thread.name == "semshare-async":
            thread.join(WAIT)
    (entry,) = engine.pool._entries.chosen(None)
    assert len(entry) < 1000, "it was left, and not generated to its end"


@pytest.mark.parametrize("way", ["ainvoke", "astream", "wait_for", "acomplete"])
def test_a_task_that_is_cancelled_in_the_midst_of_a_prefill_frees_the_model(engine: SemShareEngine, way: str) -> None:
    kind = LlamaIndexLLM if way == "acomplete" else ChatSemShare
    llm = kind(engine=engine, max_tokens=3000, reuse="off")
    gate = Gate()

    async def ask() -> Any:
        if way == "astream":
            return await gathered(llm.astream(TEXT, **NO_END))
        if way == "acomplete":
            return await llm.acomplete(TEXT, **NO_END)
        return await llm.ainvoke(TEXT, **NO_END)

    async def main() -> None:
        task = asyncio.create_task(ask() if way != "wait_for" else asyncio.wait_for(ask(), 1.0))
        await gate.until_reached()
        if way != "wait_for":
            task.cancel()
        with pytest.raises(asyncio.CancelledError if way != "wait_for" else asyncio.TimeoutError):
            await task
        await asyncio.sleep(0.01)  # the loop closes what astream left behind
        gate.opened.set()
        await asyncio.to_thread(generate, engine, PARAGRAPHS[3], store=False, reuse="off", max_new_tokens=1)

    with layers_counted(2, gate) as begun:
        asyncio.run(asyncio.wait_for(main(), WAIT))
    assert len(begun) == 2 + 4, "two of the cancelled call's, four of the next one's"
    assert engine.pool.stats().entries == 0


def test_a_slow_encoder_keeps_neither_its_call_nor_others(engine: SemShareEngine) -> None:
    opened = threading.Event()

    def slow(text: str) -> list[float]:
        opened.wait(WAIT)
        return [1.0, 2.0]

    own = SemShareEngine(engine.model, engine.tokenizer, embedding=slow)
    with pytest.raises(CallTimeoutError):
        own.generate(TEXT, max_new_tokens=3, timeout=0.05)
    gone = threading.Event()
    gone.set()
    assert list(own.stream(TEXT, cancel=gone)) == []
    assert generate(own, store=False).token_ids
    opened.set()
    for thread in threading.enumerate():
        if thread.name == "semshare-foreign":
            thread.join(WAIT)
