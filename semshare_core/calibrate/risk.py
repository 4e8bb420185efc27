"""Choose a margin so that a promise holds: risk control by testing (Learn then Test, Angelopoulos, Bates, Candès,
Jordan and Lei, arXiv 2110.01052).

A margin counts usual errors of the forecast. A call adds it to the forecast and takes the smallest ratio that is then
within the bound. We test the margins from the largest down. Each test is an exact binomial test of the hypothesis "more
than the promised share of calls break the bound". We stop at the first margin for which the test does not reject the
hypothesis, and take the margin before it. Tests in a fixed order need no correction for their number. So the promise
holds for similar calls with a probability of at least ``1 - MARGIN_RISK`` over the calibration prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from semshare_core.budget.calibration import chosen

MARGIN_RISK = 0.1
"""The probability, over the calibration prompts, that the chosen margin does not keep the promise."""

_KIND_RISK = 0.05
"""A margin is rejected if one kind of work has so many broken calls that chance has at most this probability."""

MARGINS = np.arange(10.0, -1.01, -0.05)
"""In usual errors of the forecast, the largest first."""


def beyond(measured: NDArray[np.float64], index: NDArray[np.int64], limit: float) -> NDArray[np.bool_]:
    """Whether ``measured`` [calls, ratios] exceeds ``limit`` at the ratio ``index`` [calls]; False where it is -1."""
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
    """The smallest margin that keeps the promise; None if no margin does.

    Args:
        forecast: [calls, ratios], log KL. The forecast has not seen the call.
        spread: [calls], the forecast's usual error.
        measured: [calls, ratios], log KL.
        limit: the promised log KL.
        share: the share of calls that may exceed it.
        kinds: the kind of work of each call. No kind may exceed the limit more often than chance explains.
    """
    best = None
    groups = [np.array(kinds) == kind for kind in sorted(set(kinds))]
    for margin in MARGINS:
        index = chosen(forecast, spread, limit, float(margin))
        broken = beyond(measured, index, limit)
        uneven = any(_too_many(int(broken[group].sum()), int(group.sum()), share) for group in groups)
        if uneven or binomial_tail(int(broken.sum()), len(broken), share) > MARGIN_RISK:
            break
        best = float(margin)
    return best


def _too_many(broken: int, calls: int, share: float) -> bool:
    return broken > 0 and 1.0 - binomial_tail(broken - 1, calls, share) <= _KIND_RISK


def binomial_tail(broken: int, calls: int, share: float) -> float:
    """The probability that at most ``broken`` of ``calls`` calls break if each breaks with probability ``share``."""
    return float(bdtr(broken, calls, share))
