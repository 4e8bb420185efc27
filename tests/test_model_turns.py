"""Turns at a model: one at a time, the background behind all calls."""

from __future__ import annotations

import threading
from typing import Any

from semshare_core.model_turns import ModelTurns


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
