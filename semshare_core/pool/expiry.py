"""When entries expire."""

from __future__ import annotations

import heapq

Name = tuple[str, str]  # namespace and entry

_STALE = 4  # the heap is rebuilt when it holds this many times more than what is due in truth


class ExpiryTimes:
    """Names by the time at which each is due. Not thread-safe.

    A name that is due at another time, or no longer, leaves its former place in the heap void; what is void is cleared
    away before it outnumbers the rest by far.
    """

    def __init__(self) -> None:
        self._due: dict[Name, float] = {}
        self._heap: list[tuple[float, Name]] = []

    def set(self, name: Name, due: float | None) -> None:
        """``name`` is due then and at no other time; None: never."""
        if due is None:
            self._due.pop(name, None)
            return
        self._due[name] = due
        heapq.heappush(self._heap, (due, name))
        if len(self._heap) > max(64, _STALE * len(self._due)):
            self._heap = [(due, name) for name, due in self._due.items()]
            heapq.heapify(self._heap)

    def next(self) -> tuple[float, Name] | None:
        """What is due first, and when; None if nothing is."""
        while self._heap:
            due, name = self._heap[0]
            if self._due.get(name) == due:
                return due, name
            heapq.heappop(self._heap)
        return None
