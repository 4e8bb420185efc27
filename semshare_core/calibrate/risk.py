"""Choose a margin so that a promise holds: risk control by testing (Learn then Test, Angelopoulos, Bates, Candès,
Jordan and Lei, arXiv 2110.01052).

A margin counts usual errors of the forecast. A call adds it to the forecast and takes the smallest ratio that is then
within the bound. We test the margins from the largest down. Each test is of the hypothesis "more than the promised
share of calls break the bound" (:mod:`semshare_core.calibrate.clustered_test`). We stop at the first margin for which
the test does not reject the hypothesis, and take the margin before it. Tests in a fixed order need no correction for
their number. So the promise holds for similar calls with a probability of at least ``1 - MARGIN_RISK`` over the
calibration prompts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from semshare_core.budget.calibration import chosen
from semshare_core.calibrate.clustered_test import binomial_tail, chance_of_so_few

MARGIN_RISK = 0.1
"""The probability, over the calibration prompts, that the chosen margin does not keep the promise."""

_KIND_RISK = 0.05
"""A margin is rejected if one kind of work has so many broken calls that chance has at most this probability."""

MARGINS = np.arange(10.0, -1.01, -0.05)
"""In usual errors of the forecast, the largest first."""


def beyond(measured: NDArray[np.float64], index: NDArray[np.int64], limit: float) -> NDArray[np.bool_]:
    """Whether ``measured`` [calls, ratios] exceeds ``limit`` at the ratio ``index`` [calls]; False where it is -1.

    A chain's turn is measured at some ratios only. Between them, the next smaller measured ratio counts, whose KL is
    the larger one as a rule.
    """
    at = np.where(np.isnan(measured), 0, np.arange(measured.shape[1]))
    at = np.maximum.accumulate(at, axis=1)  # the last measured ratio up to each
    taken = np.take_along_axis(at, np.maximum(index, 0)[:, None], axis=1)
    return np.asarray((index >= 0) & (np.take_along_axis(measured, taken, axis=1)[:, 0] > limit))


def margin_for(
    forecast: NDArray[np.float64],
    spread: NDArray[np.float64],
    measured: NDArray[np.float64],
    limit: float,
    share: float,
    kinds: ArrayLike,
    units: ArrayLike | None = None,
) -> float | None:
    """The smallest margin that keeps the promise; None if no margin does.

    Args:
        forecast: [calls, ratios], log KL. The forecast has not seen the call.
        spread: [calls], the forecast's usual error.
        measured: [calls, ratios], log KL; NaN where a ratio was not measured.
        limit: the promised log KL.
        share: the share of calls that may exceed it.
        kinds: [calls], the kind of work. No kind may exceed the limit more often than chance explains.
        units: [calls]: calls of one chain depend on each other. None: each call is its own unit.
    """
    best = None
    groups = [np.asarray(kinds) == kind for kind in np.unique(kinds)]
    unit = np.arange(len(measured)) if units is None else np.unique(units, return_inverse=True)[1]
    for margin in MARGINS:
        index = chosen(forecast, spread, limit, float(margin))
        broken = beyond(measured, index, limit)
        uneven = any(_too_many(broken[group], unit[group], share) for group in groups)
        if uneven or chance_of_so_few(*_by_unit(broken, unit), share) > MARGIN_RISK:
            break
        best = float(margin)
    return best


def _too_many(broken: NDArray[np.bool_], unit: NDArray[np.int64], share: float) -> bool:
    """Whether chance hardly explains so many broken units; a chain counts as its broken share."""
    count, calls = _by_unit(broken, unit)
    units = int((count / calls).sum() + 1e-9)
    return units > 0 and 1.0 - binomial_tail(units - 1, len(calls), share) <= _KIND_RISK


def _by_unit(broken: NDArray[np.bool_], unit: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The broken calls and all calls of each unit."""
    calls = np.bincount(unit)
    there = calls > 0
    return np.bincount(unit, broken).astype(np.int64)[there], calls[there]
