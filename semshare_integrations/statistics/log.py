"""A log of what calls reused."""

from __future__ import annotations

import threading

from semshare_core import ReuseReport


class ReuseLog:
    """Reports in the order in which the answers were finished. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: list[ReuseReport] = []

    @property
    def reports(self) -> list[ReuseReport]:
        """One report per prompt answered."""
        with self._lock:
            return list(self._reports)

    def add(self, report: ReuseReport) -> None:
        """Keep one more."""
        with self._lock:
            self._reports.append(report)
