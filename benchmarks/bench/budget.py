"""A part's time: machines differ, and a benchmark that says 75 minutes must not take three hours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """Hands out things to do while there is time for one more, going by the longest so far. The first is always done.

    ``stopped``: whether some were left out.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    stopped: bool = False

    def take(self, things: Iterable[T]) -> Iterator[T]:
        began = before = self.clock()
        longest = 0.0
        for number, thing in enumerate(things):
            now = self.clock()
            longest, before = max(longest, now - before), now
            if number and now - began + longest > self.seconds:
                self.stopped = True
                return
            yield thing
