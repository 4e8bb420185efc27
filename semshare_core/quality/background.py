"""A background thread for work that nobody waits for and that may be left undone."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from typing import Protocol

from semshare_core.process import forking

_EXIT_SECONDS = 60  # at the end of the program so long is waited for the job that runs


class Job(Protocol):
    """What is done in the background."""

    def run(self) -> None:
        """Do it. An error goes to ``threading.excepthook``, which prints it."""

    def drop(self) -> None:
        """Called instead, if it is left undone."""


class Background:
    """Runs jobs one after the other, at most ``room`` of them waiting. The thread begins with the first job."""

    def __init__(self, name: str, room: int) -> None:
        self._name = name
        self._jobs = _Jobs(room)
        self._ending = weakref.finalize(self, _end, self._jobs)  # at the program's end, too: see _end
        forking.renewed(self._after_fork)

    @property
    def has_room(self) -> bool:
        """Whether another job may wait."""
        with self._jobs.changed:
            return len(self._jobs.waiting) < self._jobs.room and not self._jobs.closed

    def ask(self, job: Job) -> None:
        """Have ``job`` done behind all that wait, or dropped if there is no room."""
        with self._jobs.changed:
            accepted = len(self._jobs.waiting) < self._jobs.room and not self._jobs.closed
            if accepted:
                self._jobs.waiting.append(job)
                self._jobs.changed.notify_all()
                if self._jobs.thread is None:
                    self._jobs.thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
                    self._jobs.thread.start()
        if not accepted:
            job.drop()

    @property
    def closed(self) -> bool:
        """Whether nothing more will be done."""
        return self._jobs.closed

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to do, at most ``timeout`` seconds; whether nothing is left."""
        if threading.current_thread() is self._jobs.thread:
            raise RuntimeError("the thread that does the work cannot wait for it.")
        with self._jobs.changed:
            return self._jobs.changed.wait_for(lambda: not self._jobs.waiting and not self._jobs.running, timeout)

    def close(self) -> None:
        """Drop what waits, and wait for what runs."""
        self._ending()

    def _after_fork(self) -> None:
        """In a forked child there is no thread, and what waits is the parent's to do."""
        before = self._jobs
        self._jobs = _Jobs(before.room)
        self._jobs.closed = before.closed
        if self._ending.detach() is not None:
            self._ending = weakref.finalize(self, _end, self._jobs)


class _Jobs:
    """What the thread shares with its owner, whom it must not keep alive."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.waiting: deque[Job] = deque()
        self.running = False
        self.closed = False
        self.thread: threading.Thread | None = None
        self.changed = threading.Condition(forking.whole(threading.RLock()))


def _work(jobs: _Jobs) -> None:
    while (job := _next(jobs)) is not None:
        try:
            job.run()
        except Exception:  # whatever it is: others wait for this thread
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        finally:
            del job  # it holds rows, which must not stay while this thread waits
            with jobs.changed:
                jobs.running = False
                jobs.changed.notify_all()


def _next(jobs: _Jobs) -> Job | None:
    with jobs.changed:
        jobs.changed.wait_for(lambda: jobs.waiting or jobs.closed)
        if not jobs.waiting:
            return None
        jobs.running = True
        return jobs.waiting.popleft()


def _end(jobs: _Jobs) -> None:
    """Nothing is cut off: a daemon that ends in the middle of a tensor operation can bring the interpreter down."""
    with jobs.changed:
        jobs.closed = True
        dropped = list(jobs.waiting)
        jobs.waiting.clear()
        jobs.changed.notify_all()
        thread = jobs.thread
    for job in dropped:
        job.drop()
    if thread is not None and thread is not threading.current_thread():
        thread.join(_EXIT_SECONDS)
