"""The pool's background thread: what need not be waited for is done one after the other, in the order it was asked."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable

from semshare_core import forking

Job = Callable[[], None]

_EXIT_SECONDS = 60  # at the end of the program so long is waited for what is still to be written


class Keeper:
    """Runs jobs in one thread that begins with the first job and ends with the keeper."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending: weakref.finalize[[queue.SimpleQueue[Job | None], threading.Thread], Keeper] | None = None
        self._starting = forking.whole(threading.Lock())
        forking.renewed(self._after_fork)

    def ask(self, job: Job) -> None:
        """Have ``job`` done behind all that was asked before."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=_work, args=(self._jobs,), name="semshare-pool", daemon=True)
                self._thread.start()
                # also run when the program ends, where a daemon would be cut off in the middle of its work
                self._ending = weakref.finalize(self, _end, self._jobs, self._thread)
            self._jobs.put(job)

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
        self._jobs, self._thread = queue.SimpleQueue(), None
        if self._ending is not None:
            self._ending.detach()


def _work(jobs: queue.SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # it may hold rows that leave the pool while this thread waits


def _end(jobs: queue.SimpleQueue[Job | None], thread: threading.Thread) -> None:
    jobs.put(None)
    if thread is not threading.current_thread():
        thread.join(_EXIT_SECONDS)
