"""The lock of a model: one request at a time, the background behind all calls."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from transformers import LogitsProcessor

from model_gates import WAIT, gate_in
from semshare_core import SemShareEngine
from semshare_core.errors import CallCancelledError, CallTimeoutError, NestedCallError
from semshare_core.model.lock import CallWaits, ModelLock
from semshare_core.process.interrupt import Interrupt
from semshare_integrations.langchain import SemShareLLM
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def arrivals(lock: ModelLock) -> threading.Semaphore:
    """Counts who has begun to wait for the lock, or to ask whether it is free."""
    seen, waiting = threading.Semaphore(0), lock._changed.wait_for

    def wait_for(*arguments: Any) -> bool:
        seen.release()
        return waiting(*arguments)

    lock._changed.wait_for = wait_for  # type: ignore[method-assign]
    return seen


def test_the_background_comes_after_calls_that_wait() -> None:
    lock, order = ModelLock(), []
    seen = arrivals(lock)

    def call(name: str) -> None:
        with lock:
            order.append(name)

    def background() -> None:
        with lock.when_idle():
            order.append("background")

    with lock:
        assert seen.acquire()
        behind = threading.Thread(target=background)
        behind.start()
        assert seen.acquire()
        calls = [threading.Thread(target=call, args=(name,)) for name in "ab"]
        for each in calls:
            each.start()
        for _ in calls:
            assert seen.acquire()
        assert lock.locked()
    for thread in (*calls, behind):
        thread.join()
    assert (sorted(order[:2]), order[2]) == (["a", "b"], "background")
    assert not lock.locked()


def test_a_call_waits_for_the_background_to_let_the_lock_go() -> None:
    lock, order = ModelLock(), []
    seen = arrivals(lock)

    def call() -> None:
        with lock:
            order.append("call")

    with lock.when_idle():
        assert seen.acquire()
        thread = threading.Thread(target=call)
        thread.start()
        assert seen.acquire()
        order.append("background")
    thread.join()
    assert order == ["background", "call"]


def test_a_call_that_waits_interrupts_the_background() -> None:
    lock, order = ModelLock(), []
    seen = arrivals(lock)

    def call() -> None:
        with lock:
            order.append("call")

    def pass_of_background() -> None:
        with lock.when_idle() as interrupt:
            interrupt.check()
            assert interrupt.possible
            begun.set()
            while not interrupt.due:
                time.sleep(0.001)
            order.append("given up")
            interrupt.check()

    def background() -> None:
        with pytest.raises(CallWaits):
            pass_of_background()
        with lock.when_idle() as interrupt:
            interrupt.check()
            order.append("done again")

    begun = threading.Event()
    behind = threading.Thread(target=background)
    behind.start()
    assert seen.acquire()
    assert begun.wait(WAIT)
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(WAIT)
    behind.join(WAIT)
    assert order == ["given up", "call", "done again"]


def test_unwanted_background_work_is_interrupted_too() -> None:
    unwanted: list[bool] = []
    with ModelLock().when_idle(lambda: bool(unwanted)) as interrupt:
        interrupt.check()
        unwanted.append(True)
        with pytest.raises(CallWaits):
            interrupt.check()


def test_unwanted_background_work_does_not_wait_for_a_call_to_end() -> None:
    lock, unwanted, ended = ModelLock(), threading.Event(), threading.Event()

    def background() -> None:
        with pytest.raises(CallWaits), lock.when_idle(unwanted.is_set):
            pass
        ended.set()

    with lock:
        threading.Thread(target=background, daemon=True).start()
        assert not ended.wait(0.3)
        unwanted.set()
        assert ended.wait(WAIT)
    assert not lock.locked()


def test_errors_release_the_lock() -> None:
    lock = ModelLock()
    for held in (lock, lock.when_idle()):
        try:
            with held:
                assert lock.locked()
                raise KeyError
        except KeyError:
            pass
        assert not lock.locked()
    with lock.when_idle():
        pass


def test_who_gives_up_in_the_queue_is_no_longer_waited_for() -> None:
    """Neither behind a call nor behind the background; which lets calls go first, and so comes to its turn."""
    lock, gone = ModelLock(), threading.Event()
    gone.set()
    for busy in (lock, lock.when_idle()):
        with busy:
            for interrupt, error in ((Interrupt(gone), CallCancelledError), (Interrupt(None, 0.01), CallTimeoutError)):
                somebody = contextvars.Context()
                with pytest.raises(error):
                    somebody.run(lock.hold(interrupt).__enter__)
            assert lock.locked()
        assert not lock.locked()
    background = threading.Thread(target=lambda: lock.when_idle().__enter__(), daemon=True)
    background.start()
    background.join(WAIT)
    assert not background.is_alive()


def test_the_report_tells_the_queue_apart() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    reports: dict[str, Any] = {}

    def call(name: str) -> None:
        reports[name] = engine.generate(f"I am {name}", max_new_tokens=2).report

    with gate_in(engine.model, 1) as gate:
        first = threading.Thread(target=call, args=("first",))
        first.start()
        assert gate.reached.wait(WAIT)
        seen = arrivals(engine._lock)
        second = threading.Thread(target=call, args=("second",))
        second.start()
        assert seen.acquire(timeout=WAIT)
        threading.Event().wait(0.05)
        gate.opened.set()
        first.join()
        second.join()
    assert reports["first"].queue_ms < reports["second"].queue_ms < reports["second"].ttft_ms
    assert reports["second"].queue_ms > 49
    assert "in the queue" in reports["second"].summary()
    assert f"queue {reports['second'].queue_ms:.0f}" in reports["second"]._repr_html_()


class Asks(LogitsProcessor):  # type: ignore[misc]
    """Asks the model once while it answers, and remembers what came of it."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask: Callable[[], Any] | None = ask
        self.came: Any = None

    def __call__(self, ids: Any, scores: Any) -> Any:
        if self._ask is not None:
            ask, self._ask = self._ask, None
            try:
                self.came = ask()
            except NestedCallError as error:
                self.came = error
        return scores


NESTED: dict[str, Callable[[SemShareEngine], Any]] = {
    "generate": lambda engine: engine.generate("Why?", timeout=WAIT),
    "stream": lambda engine: list(engine.stream("Why?", timeout=WAIT)),
    "prefill": lambda engine: engine.prefill("Why?", timeout=WAIT),
    "warm": lambda engine: engine.warm(["Why?"], timeout=WAIT),
    "another engine": lambda engine: SemShareEngine(engine.model, engine.tokenizer),
    "astream": lambda engine: asyncio.run(SemShareLLM(engine=engine, timeout=WAIT).ainvoke("Why?")),
}


@pytest.mark.parametrize("way", NESTED)
@pytest.mark.parametrize("streams", [False, True])
def test_a_call_inside_a_call_is_refused_and_not_waited_for(way: str, streams: bool) -> None:
    """It waited for the end of the call that waited for it."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    asks = Asks(lambda: NESTED[way](engine))
    settings: dict[str, Any] = {"max_new_tokens": 2, "logits_processor": [asks], "timeout": 2 * WAIT}
    if streams:
        assert list(engine.stream("The river", **settings))[-1].report is not None
    else:
        assert engine.generate("The river", **settings).token_ids
    assert isinstance(asks.came, NestedCallError)
    assert engine.generate("The river", max_new_tokens=1).token_ids, "the model is free"


def test_a_call_inside_a_call_may_ask_another_model() -> None:
    first, second = (SemShareEngine(tiny_model("llama"), tiny_tokenizer()) for _ in range(2))
    asks = Asks(lambda: second.generate("Why?", max_new_tokens=1).token_ids)
    first.generate("The river", max_new_tokens=2, logits_processor=[asks])
    assert asks.came == second.generate("Why?", max_new_tokens=1).token_ids


def test_who_was_started_inside_a_call_may_ask_when_that_is_over() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    asks = Asks(contextvars.copy_context)
    engine.generate("The river", max_new_tokens=1, logits_processor=[asks])
    assert asks.came.run(engine.generate, "Why?", max_new_tokens=1).token_ids
