"""What leaves first: GreedyDual-Size-Frequency.

value = clock + uses x (cost of computing its rows again) / bytes, where the clock is the value of the last thing that
was evicted, so that what is not used any more falls behind (Cao and Irani, "Cost-Aware WWW Proxy Caching Algorithms",
USITS 1997; the frequency is Cherkasova's, HPL-98-69R1, 1998). Bytes per token are the same for all, so the cost per
byte grows with the position alone: a later token attends to more of the prompt.
"""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Callable, Iterable

from semshare_core.pool.segment import Segment

_Place = tuple[float, int, int, weakref.ref[Segment]]  # value, tick and a number of its own, so no more is compared

_STALE = 4  # a queue is rebuilt when it holds this many times more than what is queued in truth


class EvictionPolicy:
    """Values segments, and keeps the clock. Not thread-safe."""

    def __init__(self, attention_equals: float) -> None:
        """``attention_equals``: position at which a token's attention costs as much as the model's weights."""
        self._attention_equals = attention_equals
        self._clock = 0.0
        self._tick = 0

    def value(self, segments: Iterable[Segment]) -> None:
        """Value the segments of one entry anew, in text order; a beginning is never worth less than what follows it."""
        following = 0.0
        for segment in reversed(list(segments)):
            self._tick += 1
            density = 1 + (segment.start + segment.length / 2) / self._attention_equals
            following = max(following, self._clock + segment.uses * density)
            segment.value, segment.tick = following, self._tick

    def evicted(self, segment: Segment) -> None:
        """Time passes: what is valued from now on starts from the worth of what had to go."""
        self._clock = max(self._clock, segment.value)


class EvictionQueue:
    """Segments by value, least first; equal ones by age. Pinned ones are never given out. Not thread-safe.

    Places in the queue outlive what they were for, so they hold no segment alive: what left the pool has left memory.
    """

    def __init__(self, belongs: Callable[[Segment], bool]) -> None:
        self._belongs = belongs
        self._heap: list[_Place] = []
        self._places = itertools.count()
        self._live = 0

    def push(self, segment: Segment) -> None:
        """Queue a segment at its present value; its former place is void."""
        if not segment.pinned and self._belongs(segment):
            heapq.heappush(self._heap, (segment.value, segment.tick, next(self._places), weakref.ref(segment)))
            if len(self._heap) > max(64, _STALE * self._live):
                self._heap = [item for item in self._heap if self._segment(item) is not None]
                heapq.heapify(self._heap)
                self._live = len(self._heap)

    def least(self, keep: Iterable[Segment] = ()) -> Segment | None:
        """Take out the segment of the least value that is not to be kept; None if there is none."""
        kept, passed = set(keep), []
        while (found := self.peek()) is not None:
            place = heapq.heappop(self._heap)
            if found not in kept:
                break
            passed.append(place)
        for place in passed:
            heapq.heappush(self._heap, place)
        return found

    def peek(self) -> Segment | None:
        """The segment of the least value, left where it is."""
        while self._heap:
            segment = self._segment(self._heap[0])
            if segment is not None:
                return segment
            heapq.heappop(self._heap)
        return None

    def _segment(self, item: _Place) -> Segment | None:
        """Whose place this is; None if it is void."""
        _, tick, _, place = item
        segment = place()
        if segment is None or segment.tick != tick or segment.pinned or not self._belongs(segment):
            return None
        return segment
