"""A part's time: machines differ, and a benchmark that says 75 minutes must not take three hours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """Hands out things to do while there is time for one more, going by the longest so far.

    The first is always done, and stands for the others only until there is a second: it has things to warm up.

    ``stopped``: whether some were left out.
    """

    seconds: float
    clock: Callable[[], float] = time.perf_counter
    stopped: bool = False

    def take(self, things: Iterable[T]) -> Iterator[T]:
        began = before = self.clock()
        taken: list[float] = []
        for number, thing in enumerate(things):
            now = self.clock()
            if number:
                taken.append(now - before)
            before = now
            if taken and now - began + max(taken[1:] or taken) > self.seconds:
                self.stopped = True
                return
            yield thing
