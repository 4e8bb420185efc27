"""Fit a calibration to observations: the forecast's usual errors, each level's margin, and the cost of a prefill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.calibration import Calibration, Observation, choices, kl_table, padded
from semshare_core.budget.cost import CostModel
from semshare_core.budget.features import PlanFeatures, feature_matrix
from semshare_core.budget.forecast import Forecast, log_kl
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.spread import Spread
from semshare_core.calibrate.risk import margin_for
from semshare_core.errors import ConfigError

LEAST_PAIRS = 45
"""Fewer pairs cannot show that a promise of 5 % is kept, even if no call breaks its bound."""

_FOLDS = 10


def fit_calibration(
    observations: Sequence[Observation], fingerprint: Mapping[str, str], prompts: str, ratios: Sequence[float]
) -> Calibration:
    """Choose each level's margin with forecasts that have not seen the call (cross-fitting).

    Args:
        observations: the measured pairs.
        fingerprint: of model, tokenizer and dtype.
        prompts: a description of the pairs.
        ratios: the recompute ratios.

    Raises:
        ConfigError: there are too few observations.
    """
    check_enough(len(observations))
    plans = [item.features for item in observations]
    kl = kl_table(observations, ratios)
    tokens = token_counts(plans)
    forecast, spread, errors = cross_fitted(plans, kl, ratios)
    kinds = [item.kind for item in observations]
    margins = {
        level: margin_for(forecast, spread, log_kl(kl), float(log_kl(bound.kl)), bound.share, kinds)
        for level, bound in BOUNDS.items()
    }
    cost = CostModel.fit(
        tokens,
        np.array([item.full_seconds for item in observations]),
        np.array([[float(features.computed(ratio)) for ratio in ratios] for features in plans]),
        padded([item.seconds for item in observations], len(ratios)),
    )
    return Calibration(
        fingerprint=dict(fingerprint),
        prompts=prompts,
        ratios=list(ratios),
        margins=margins,
        spread=Spread.fit(tokens, errors),
        cost=cost,
        observations=list(observations),
    )


def token_counts(plans: Sequence[PlanFeatures]) -> NDArray[np.float64]:
    """The length of each prompt in tokens, float64 [plans]."""
    return np.array([float(features.tokens) for features in plans])


def check_enough(pairs: int) -> None:
    """Raise ConfigError if there are too few pairs to show that a promise is kept."""
    if pairs < LEAST_PAIRS:
        raise ConfigError(
            f"{pairs} pairs of prompts are too few: {LEAST_PAIRS} are needed to show that at most "
            f"{BOUNDS['balanced'].share:.0%} of calls break a bound. Add more prompts that resemble earlier ones."
        )


def cross_fitted(
    plans: Sequence[PlanFeatures], kl: NDArray[np.float64], ratios: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Forecast each call from the other folds, as in CV+ (arXiv 1905.02928).

    Returns:
        The forecast log KL [calls, ratios], infinite where a level may not choose the ratio; its usual error [calls];
        and its error [calls, ratios], NaN where ``kl`` is NaN.
    """
    features, tokens = feature_matrix(plans, ratios), token_counts(plans)
    fold = np.arange(len(kl)) % _FOLDS
    forecast, spread = np.empty_like(kl), np.empty(len(kl))
    for number in range(_FOLDS):
        out = fold == number
        forecast[out] = Forecast(features[~out], kl[~out]).log_kl(features[out])
    errors = log_kl(kl) - forecast
    for number in range(_FOLDS):
        out = fold == number
        spread[out] = Spread.fit(tokens[~out], errors[~out]).of(tokens[out])
    offered = np.array([np.isin(ratios, choices(features, ratios)) for features in plans])
    return np.where(offered & ~np.isnan(kl), forecast, np.inf), spread, errors
