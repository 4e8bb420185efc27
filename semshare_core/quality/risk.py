"""Choosing a margin so that a promise holds: risk control by testing (Learn then Test, Angelopoulos, Bates, Candès,
Jordan and Lei, arXiv 2110.01052).

Every margin is a way to serve calls: it is added to the forecast, and the smallest ratio whose forecast is within the
bound is taken. Margins are tested one after the other from the most careful one down, each against "more than the
promised share of calls break the bound", with an exact binomial test; the last margin before the first that is not
refuted is taken. Testing in a fixed order needs no correction for many tests, so that with a probability of at least
``1 - RISK`` over the calibration prompts the promise holds for calls like them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

RISK = 0.1
"""The probability, over the calibration prompts, that the margin chosen does not keep the promise."""

MARGINS = np.arange(6.0, -1.01, -0.05)
"""Of the logarithm of the KL, from the most careful down; 6 is a factor of 400."""


def chosen(forecast: NDArray[np.float64], limit: float, margin: float) -> NDArray[np.int64]:
    """Per call the first ratio whose forecast [calls, ratios] plus ``margin`` is within ``limit``; -1: none is."""
    within = forecast + margin <= limit
    return np.where(within.any(axis=1), within.argmax(axis=1), -1)


def margin_for(
    forecast: NDArray[np.float64], measured: NDArray[np.float64], limit: float, share: float, kinds: Sequence[str]
) -> float | None:
    """The smallest margin that keeps the promise; None if not even the most careful one does.

    Args:
        forecast: [calls, ratios] log KL, by a forecast that has not seen the call.
        measured: [calls, ratios] log KL.
        limit: log KL that is promised.
        share: of the calls, those may exceed it.
        kinds: of work, per call: in none of them may more than ``share`` exceed it, one call aside.
    """
    best = None
    groups = [np.array(kinds) == kind for kind in sorted(set(kinds))]
    for margin in MARGINS:
        index = chosen(forecast, limit, float(margin))
        broken = (index >= 0) & (np.take_along_axis(measured, np.maximum(index, 0)[:, None], axis=1)[:, 0] > limit)
        uneven = any(broken[group].sum() > 1 + share * group.sum() for group in groups)
        if uneven or binomial_tail(int(broken.sum()), len(broken), share) > RISK:
            break
        best = float(margin)
    return best


def binomial_tail(broken: int, calls: int, share: float) -> float:
    """The probability that at most ``broken`` of ``calls`` break if each does with probability ``share``."""
    return sum(comb(calls, count) * share**count * (1 - share) ** (calls - count) for count in range(broken + 1))
