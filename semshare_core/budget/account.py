"""The account of approximate rows: how far answers from them are believed to lie from the full prefill's, in nats.

An account is an upper quantile, not a bound that was measured. It is an input of the forecast for the calls that draw
on the rows. With a calibration it comes from the forecast. Without one it comes from the share of the prompt that was
computed, see :func:`assumed_account`. It is never below that of the approximate rows that a call keeps: they do not
become better because the prompt becomes longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS

_REPAIRABLE = 3.0  # bounds: rows of a larger account cost more to repair than they save
_PER_CALL = 1 / 16  # bounds: what one call adds at a level's fixed share (``python -m benchmarks.agents uncalibrated``)


@dataclass(frozen=True)
class Limits:
    """The largest accounts, in nats, of rows that may serve.

    Attributes:
        prefix: of rows that serve as a prefix: nobody recomputes them.
        moved: of rows that may move, and may be recomputed.
    """

    prefix: float
    moved: float

    @classmethod
    def of(cls, goal: Goal) -> Limits:
        """The limits of a goal. A lossless goal takes only lossless rows, a fixed ratio takes all."""
        bound = goal.bound if goal.approximates else 0.0
        return cls(bound, _REPAIRABLE * bound)


LOSSLESS = Limits(0.0, 0.0)
"""Only lossless rows may serve."""


def assumed_account(level: str, inherited: float, ratio: float) -> float:
    """The account of a call at a level's fixed share, on a model without a calibration.

    What rows inherit and what the call adds may point the same way: (√a + √b)². Computed rows inherit less.

    Args:
        level: the level whose fixed share was computed.
        inherited: in nats, the mean account over the prompt's tokens.
        ratio: the share of the prompt that is computed.
    """
    left = inherited * (1 - ratio) if ratio < 1 else 0.0  # not known, and all of it computed: nothing is left
    return float((math.sqrt(left) + math.sqrt(BOUNDS[level].kl * _PER_CALL)) ** 2)
