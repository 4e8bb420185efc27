"""The pool's background thread: what need not be waited for is done one after the other, in the order it was asked."""

from __future__ import annotations

import queue
import sys
import threading
import weakref
from collections.abc import Callable

from semshare_core.process import forking

Job = Callable[[], None]
Idle = Callable[[], float | None]

_EXIT_SECONDS = 60  # at the end of the program so long is waited for what is still to be written


def _nothing() -> None:
    """There is nothing to do but to look anew how long to wait."""


class Keeper:
    """Runs jobs in one thread that begins with the first job and ends with the keeper.

    Args:
        idle: called before every wait for a job; the seconds after which to call it again if none comes, or None. It
            must hold the keeper's owner weakly, or neither would ever end.
    """

    def __init__(self, idle: Idle) -> None:
        self._idle = idle
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = forking.whole(threading.Lock())
        self._ending: weakref.finalize[[queue.SimpleQueue[Job | None], threading.Thread], Keeper] | None = None
        forking.renewed(self._after_fork)

    def ask(self, job: Job) -> None:
        """Have ``job`` done behind all that was asked before."""
        with self._starting:
            if self._thread is None:
                work = (self._jobs, self._idle)
                self._thread = threading.Thread(target=_work, args=work, name="semshare-pool", daemon=True)
                self._thread.start()
                # also run when the program ends, where a daemon would be cut off in the middle of its work
                self._ending = weakref.finalize(self, _end, self._jobs, self._thread)
            self._jobs.put(job)

    def wake(self) -> None:
        """Have ``idle`` called: it may want to be called sooner than it said."""
        self.ask(_nothing)

    def close(self) -> None:
        """Do what was asked and end the thread; the next job begins another."""
        with self._starting:
            ending, self._ending, self._thread = self._ending, None, None
            self._jobs = queue.SimpleQueue()  # the old one's end is that thread's
        if ending is not None:
            ending()

    def flush(self) -> None:
        """Wait until everything that was asked is done."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        done = threading.Event()
        self.ask(done.set)
        while not done.wait(0.1):
            if not thread.is_alive():
                raise RuntimeError("the pool's background thread has died; its traceback was printed.")

    def _after_fork(self) -> None:
        """In a forked child there is no thread, and what was asked is the parent's to do."""
        ending, self._ending, self._thread = self._ending, None, None
        self._jobs = queue.SimpleQueue()
        if ending is not None:
            ending.detach()


def _work(jobs: queue.SimpleQueue[Job | None], idle: Idle) -> None:
    while True:
        try:
            job = jobs.get(timeout=idle())
        except queue.Empty:
            continue
        if job is None:
            return
        try:
            job()
        except Exception:  # whatever it is: what was asked behind it must be done, too
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        del job  # it may hold what leaves the pool while this thread waits


def _end(jobs: queue.SimpleQueue[Job | None], thread: threading.Thread) -> None:
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(_EXIT_SECONDS)
