"""Choosing a margin so that a promise holds: risk control by testing (Learn then Test, Angelopoulos, Bates, Candès,
Jordan and Lei, arXiv 2110.01052).

Every margin is a way to serve calls: so many times the forecast's usual error is added to it, and the smallest ratio
that is then within the bound is taken. Margins are tested one after the other from the most careful one down, each
against "more than the promised share of calls break the bound", with an exact binomial test; the last margin before the
first that is not refuted is taken. Testing in a fixed order needs no correction for many tests, so that with a
probability of at least ``1 - RISK`` over the calibration prompts the promise holds for calls like them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from semshare_core.budget.calibration import chosen

RISK = 0.1
"""The probability, over the calibration prompts, that the margin chosen does not keep the promise."""

_UNEVEN = 0.05
"""How unlikely the broken calls of one kind of work must be for the margin to be given up because of them."""

MARGINS = np.arange(10.0, -1.01, -0.05)
"""In usual errors of the forecast, from the most careful down."""


def beyond(measured: NDArray[np.float64], index: NDArray[np.int64], limit: float) -> NDArray[np.bool_]:
    """Bool [calls]: whether ``measured`` [calls, ratios] exceeds ``limit`` at the ratio chosen, never where none is."""
    return np.asarray(
        (index >= 0) & (np.take_along_axis(measured, np.maximum(index, 0)[:, None], axis=1)[:, 0] > limit)
    )


def margin_for(
    forecast: NDArray[np.float64],
    spread: NDArray[np.float64],
    measured: NDArray[np.float64],
    limit: float,
    share: float,
    kinds: Sequence[str],
) -> float | None:
    """The smallest margin that keeps the promise; None if not even the most careful one does.

    Args:
        forecast: [calls, ratios] log KL, by a forecast that has not seen the call.
        spread: [calls], that forecast's usual error.
        measured: [calls, ratios] log KL.
        limit: log KL that is promised.
        share: of the calls, those may exceed it.
        kinds: of work, per call: in none of them may the calls that exceed it be too many to be chance.
    """
    best = None
    groups = [np.array(kinds) == kind for kind in sorted(set(kinds))]
    for margin in MARGINS:
        index = chosen(forecast, spread, limit, float(margin))
        broken = beyond(measured, index, limit)
        uneven = any(_too_many(int(broken[group].sum()), int(group.sum()), share) for group in groups)
        if uneven or binomial_tail(int(broken.sum()), len(broken), share) > RISK:
            break
        best = float(margin)
    return best


def _too_many(broken: int, calls: int, share: float) -> bool:
    return broken > 0 and 1.0 - binomial_tail(broken - 1, calls, share) <= _UNEVEN


def binomial_tail(broken: int, calls: int, share: float) -> float:
    """The probability that at most ``broken`` of ``calls`` break if each does with probability ``share``."""
    return float(bdtr(broken, calls, share))
