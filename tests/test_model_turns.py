"""Turns at a model: one at a time, the background behind all calls."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from model_gates import WAIT, gate_in
from semshare_core import SemShareEngine
from semshare_core.errors import CallCancelledError, CallTimeoutError
from semshare_core.interrupt import Interrupt
from semshare_core.model_turns import ModelTurns
from tiny_models import tiny_model, tiny_tokenizer


def arrivals(turns: ModelTurns) -> threading.Semaphore:
    """Counts who has begun to wait for a turn, or to ask whether it is theirs."""
    seen, waiting = threading.Semaphore(0), turns._changed.wait_for

    def wait_for(*arguments: Any) -> bool:
        seen.release()
        return waiting(*arguments)

    turns._changed.wait_for = wait_for  # type: ignore[method-assign]
    return seen


def test_the_background_comes_after_calls_that_wait() -> None:
    turns, order = ModelTurns(), []
    seen = arrivals(turns)

    def call(name: str) -> None:
        with turns:
            order.append(name)

    def background() -> None:
        with turns.when_idle():
            order.append("background")

    with turns:
        assert seen.acquire()
        behind = threading.Thread(target=background)
        behind.start()
        assert seen.acquire()
        calls = [threading.Thread(target=call, args=(name,)) for name in "ab"]
        for each in calls:
            each.start()
        for _ in calls:
            assert seen.acquire()
        assert turns.locked()
    for thread in (*calls, behind):
        thread.join()
    assert (sorted(order[:2]), order[2]) == (["a", "b"], "background")
    assert not turns.locked()


def test_a_call_waits_for_a_turn_in_the_background() -> None:
    turns, order = ModelTurns(), []
    seen = arrivals(turns)

    def call() -> None:
        with turns:
            order.append("call")

    with turns.when_idle():
        assert seen.acquire()
        thread = threading.Thread(target=call)
        thread.start()
        assert seen.acquire()
        order.append("background")
    thread.join()
    assert order == ["background", "call"]


def test_errors_end_a_turn() -> None:
    turns = ModelTurns()
    for turn in (turns, turns.when_idle()):
        try:
            with turn:
                assert turns.locked()
                raise KeyError
        except KeyError:
            pass
        assert not turns.locked()
    with turns.when_idle():
        pass


def test_who_gives_up_in_the_queue_is_no_longer_waited_for() -> None:
    """Neither behind a call nor behind the background; which lets calls go first, and so comes to its turn."""
    turns, gone = ModelTurns(), threading.Event()
    gone.set()
    for busy in (turns, turns.when_idle()):
        with busy:
            for interrupt, error in ((Interrupt(gone), CallCancelledError), (Interrupt(None, 0.01), CallTimeoutError)):
                with pytest.raises(error), turns.turn(interrupt):
                    pytest.fail("it is somebody else's turn")
            assert turns.locked()
        assert not turns.locked()
    background = threading.Thread(target=lambda: turns.when_idle().__enter__(), daemon=True)
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
