"""The background thread: what is asked is done in order, what waits at the end is finished or dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from semshare_core.process.worker import Worker

WAIT = 20.0


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds a worker up until it is set."""
    opened = threading.Event()
    yield opened
    opened.set()


def test_jobs_are_done_in_order_and_a_failure_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: printed.append(told.exc_type))
    worker, done = Worker("test", finishes=True), []
    worker.ask(lambda: done.append(1))
    worker.ask(lambda: 1 // 0)
    worker.ask(lambda: done.append(2))
    assert worker.wait(WAIT)
    assert (done, printed) == ([1, 2], [ZeroDivisionError])
    worker.close()


def test_what_waits_is_finished_and_the_next_job_begins_another_thread(gate: threading.Event) -> None:
    worker, done = Worker("test", finishes=True), []
    worker.ask(lambda: gate.wait(WAIT))
    worker.ask(lambda: done.append(1))
    closing = threading.Thread(target=worker.close)
    closing.start()
    gate.set()
    closing.join(WAIT)
    assert done == [1]
    worker.ask(lambda: done.append(2))
    assert worker.wait(WAIT)
    assert done == [1, 2]
    worker.close()


def test_what_waits_is_dropped_and_nothing_more_is_taken(gate: threading.Event) -> None:
    worker, done, dropped, begun = Worker("test", room=1), [], [], threading.Event()
    worker.ask(lambda: (begun.set(), gate.wait(WAIT), done.append(0)))
    assert begun.wait(WAIT)
    worker.ask(lambda: done.append(1), lambda: dropped.append(1))
    assert not worker.has_room
    worker.ask(lambda: done.append(2), lambda: dropped.append(2))
    assert dropped == [2], "there is no room for it"
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker.closed:
        time.sleep(0.001)
    gate.set()
    closing.join(WAIT)
    worker.ask(lambda: done.append(3), lambda: dropped.append(3))
    assert 0 in done, "what runs is not cut off"
    assert sorted([*done[1:], *dropped]) == [1, 2, 3]
    assert dropped[-1] == 3


def test_an_idle_worker_looks_again_when_it_said_and_when_it_is_woken() -> None:
    looked: list[float | None] = []
    often = threading.Semaphore(0)

    def idle() -> float | None:
        looked.append(None)
        often.release()
        return 0.01 if len(looked) < 4 else None

    worker = Worker("test", finishes=True, idle=idle)
    worker.wake()
    for _ in range(4):
        assert often.acquire(timeout=WAIT)
    before = len(looked)
    worker.wake()
    assert worker.wait(WAIT)
    assert len(looked) > before
    worker.close()


def test_the_thread_that_does_the_work_does_not_wait_for_it() -> None:
    worker, waited = Worker("test", finishes=True), []
    worker.ask(lambda: waited.append(worker.wait(WAIT)))
    assert worker.wait(WAIT)
    assert waited == [False]
    worker.close()


def test_a_worker_that_is_dropped_ends_its_thread() -> None:
    worker = Worker("test", finishes=True)
    worker.ask(lambda: None)
    thread = worker._jobs.thread
    assert thread is not None
    del worker
    thread.join(WAIT)
    assert not thread.is_alive()


def test_the_end_of_a_worker_ends_the_pause_of_a_job() -> None:
    worker, begun = Worker("test"), threading.Event()
    worker.ask(lambda: (begun.set(), worker.pause(1000 * WAIT)))
    assert begun.wait(WAIT)
    closing = threading.Thread(target=worker.close)
    closing.start()
    closing.join(WAIT)
    assert not closing.is_alive()
