"""How far a calibration has come: the heads of its columns, and what stands before each line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from semshare_core.budget.calibration import RATIOS
from semshare_core.calibrate.prompts import CalibrationPair

HEAD = f"{'done':>9} {'time':>8} {'left':>8}  {'pair':<20} {'tokens':>6}  KL at {' '.join(f'{r:<5g}' for r in RATIOS)}"
"""The heads of the columns of :meth:`Progress.line`."""

_CHAIN = 3.0  # pairs: about twenty full prefills instead of five to eight


class Progress:
    """Counts pairs and forecasts the time that is left.

    The time of a pair is taken to grow with the length of its prompts. Pairs that a journal has are no measurement of
    time.

    Args:
        pairs: all pairs, in the order in which they are measured.
        further: the number of lines that follow, one for each chain. A chain takes as long as three pairs.
        known: the number of leading pairs that a journal has.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        pairs: Sequence[CalibrationPair],
        further: int = 0,
        known: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._weights = [float(sum(len(str(text)) for text in (*pair.references, pair.target))) for pair in pairs]
        mean = sum(self._weights) / len(pairs) if pairs else 1.0
        self._weights += further * [_CHAIN * mean]
        self._known = known
        self._clock = clock
        self._began = self._measuring_since = clock()
        self._count = 0

    @property
    def seconds_left(self) -> float | None:
        """The forecast; None before the first measurement."""
        measured = sum(self._weights[self._known : self._count])
        if not measured:
            return None
        return (self._clock() - self._measuring_since) * sum(self._weights[self._count :]) / measured

    def line(self, text: str) -> str:
        """The line of the next pair: which one it is, how long the run has taken and will take, and ``text``."""
        self._count += 1
        if self._count <= self._known:
            self._measuring_since = self._clock()
        left = self.seconds_left
        done = f"{self._count}/{max(self._count, len(self._weights))}"
        return f"{done:>9} {_clock(self._clock() - self._began):>8} {_clock(left):>8}  {text}"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))
