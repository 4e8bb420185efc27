"""A background thread for work that nobody waits for."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable

from semshare_core.process import forking

Job = Callable[[], object]
Idle = Callable[[], float | None]

_EXIT_SECONDS = 60  # at the end of the program so long is waited for what is still to be done


def _nothing() -> None: ...


class Worker:
    """Runs jobs one after the other, in a thread that begins with the first job and ends with the worker.

    Args:
        name: of the thread.
        room: at most so many jobs wait; None: any number.
        finishes: what waits when the worker is closed, or the program ends, is done; otherwise it is dropped, and a
            closed worker takes nothing more.
        idle: called before every wait for a job; the seconds after which to call it again if none comes, or None. It
            must hold the worker's owner weakly, or neither would ever end.
    """

    def __init__(self, name: str, *, room: int | None = None, finishes: bool = False, idle: Idle | None = None) -> None:
        self._name = name
        self._jobs = _Jobs(room, finishes, idle)
        self._ending: weakref.finalize[[_Jobs], Worker] | None = None
        forking.renewed(self._after_fork)

    @property
    def has_room(self) -> bool:
        """Whether another job may wait."""
        with self._jobs.changed:
            return self._jobs.has_room

    @property
    def closed(self) -> bool:
        """Whether nothing more will be done."""
        return self._jobs.closed

    def ask(self, job: Job, drop: Job = _nothing) -> None:
        """Have ``job`` done behind all that wait; ``drop`` is called instead where it is left undone."""
        with self._jobs.changed:
            jobs = self._jobs
            accepted = jobs.has_room
            if accepted:
                jobs.waiting.append((job, drop))
                jobs.asked += 1
                jobs.changed.notify_all()
                if jobs.thread is None:
                    jobs.thread = threading.Thread(target=_work, args=(jobs,), name=self._name, daemon=True)
                    jobs.thread.start()
                    self._ending = weakref.finalize(self, _end, jobs)  # at the program's end, too: see _end
        if not accepted:
            drop()

    def wake(self) -> None:
        """Have ``idle`` called: it may want to be called sooner than it said."""
        self.ask(self._jobs.idle or _nothing)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all that was asked is done or dropped, at most ``timeout`` seconds; whether it is."""
        with self._jobs.changed:
            jobs, asked = self._jobs, self._jobs.asked
            if threading.current_thread() is jobs.thread:
                return False  # the thread that does the work cannot wait for it
            return jobs.changed.wait_for(lambda: jobs.done >= asked, timeout)

    def pause(self, seconds: float) -> None:
        """Have a job sleep. The worker's end ends the sleep."""
        jobs = self._jobs
        with jobs.changed:
            jobs.changed.wait_for(lambda: jobs.closed, seconds)

    def close(self) -> None:
        """Finish or drop what waits, and end the thread. One that finishes begins another with the next job."""
        with self._jobs.changed:
            jobs, ending = self._jobs, self._ending
            if jobs.finishes:
                self._jobs, self._ending = jobs.anew(jobs.changed), None
            jobs.closed = True
        if ending is not None:
            ending()

    def _after_fork(self) -> None:
        """In a forked child there is no thread, and what waits is the parent's to do."""
        before, ending = self._jobs, self._ending
        self._jobs, self._ending = before.anew(), None
        self._jobs.closed = before.closed
        if ending is not None:
            ending.detach()


class _Jobs:
    """What the thread shares with its owner, whom it must not keep alive."""

    def __init__(
        self, room: int | None, finishes: bool, idle: Idle | None, changed: threading.Condition | None = None
    ) -> None:
        self.room, self.finishes, self.idle = room, finishes, idle
        self.waiting: deque[tuple[Job, Job]] = deque()
        self.asked = self.done = 0
        self.closed = False
        self.thread: threading.Thread | None = None
        self.changed = changed or threading.Condition(forking.whole(threading.RLock()))

    @property
    def has_room(self) -> bool:
        return not self.closed and (self.room is None or len(self.waiting) < self.room)

    def anew(self, changed: threading.Condition | None = None) -> _Jobs:
        return _Jobs(self.room, self.finishes, self.idle, changed)

    def next(self) -> Job | None:
        """Wait for a job; None: there are none any more."""
        while True:
            timeout = self.idle() if self.idle is not None else None
            with self.changed:
                if self.changed.wait_for(lambda: self.waiting or self.closed, timeout):
                    return self.waiting.popleft()[0] if self.waiting else None


def _work(jobs: _Jobs) -> None:
    while (job := jobs.next()) is not None:
        try:
            job()
        except BaseException:  # whatever it is: others wait for this thread
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        finally:
            del job  # it may hold rows, which must not stay while this thread waits
            with jobs.changed:
                jobs.done += 1
                jobs.changed.notify_all()


def _end(jobs: _Jobs) -> None:
    """Nothing is cut off: a daemon that ends in the middle of a tensor operation can bring the interpreter down."""
    with jobs.changed:
        jobs.closed = True
        dropped = [] if jobs.finishes else [drop for _, drop in jobs.waiting]
        if not jobs.finishes:
            jobs.waiting.clear()
            jobs.done += len(dropped)
        jobs.changed.notify_all()
    for drop in dropped:
        drop()
    if jobs.thread is not None and jobs.thread is not threading.current_thread():
        jobs.thread.join(_EXIT_SECONDS)
