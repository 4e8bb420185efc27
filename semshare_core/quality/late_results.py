"""What becomes known of a call only after it has returned, by the call's or the check's id."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from semshare_core.process import forking

T = TypeVar("T")

_REMEMBERED = 4096  # finished ones: somebody may ask late about a copy of a report


class LateResults(Generic[T]):
    """Results that are announced, and come later. Thread-safe."""

    def __init__(self) -> None:
        # an engine that the garbage collector finds in the middle of a change here abandons its own
        self._lock = forking.whole(threading.RLock())
        self._pending: dict[str, list[Callable[[T], None]]] = {}
        self._finished: OrderedDict[str, T] = OrderedDict()

    def begin(self, name: str) -> None:
        """There will be a result of ``name``."""
        with self._lock:
            self._pending[name] = []

    def finish(self, name: str, result: T) -> list[Callable[[T], None]]:
        """The result is there. Returns who wants to be called with it."""
        with self._lock:
            self._finished[name] = result
            if len(self._finished) > _REMEMBERED:
                self._finished.popitem(last=False)
            return self._pending.pop(name, [])

    def abandon(self, name: str) -> None:
        """There will be no result after all."""
        with self._lock:
            self._pending.pop(name, None)

    def when_done(self, name: str, listener: Callable[[T], None]) -> None:
        """Call ``listener`` with the result: now if it is there, or else in the thread that finishes it.

        A name that was not announced, or whose result is forgotten, calls nobody.
        """
        with self._lock:
            finished = self._finished.get(name)
            if finished is None and name in self._pending:
                self._pending[name].append(listener)
        if finished is not None:
            listener(finished)


HEALED: LateResults[int] = LateResults()
"""How many approximate rows of a call's entry were computed afresh, by the id of the call's report."""
