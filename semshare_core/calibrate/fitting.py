"""From observations to a calibration: the forecast's usual errors, each level's margin, and the cost of a prefill."""

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
"""Fewer cannot show a promise of 5 % kept: not one broken call among them would be proof enough."""

_FOLDS = 10


def fit_calibration(
    observations: Sequence[Observation], fingerprint: Mapping[str, str], prompts: str, ratios: Sequence[float]
) -> Calibration:
    """Choose each level's margin by forecasts that have not seen the call (cross-fitting).

    Args:
        observations: the pairs that were measured.
        fingerprint: of model, tokenizer and dtype.
        prompts: what the pairs are, in words.
        ratios: the recompute ratios.

    Raises:
        ConfigError: too few observations to show that a promise is kept.
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
    """Float64 [plans], tokens of each prompt."""
    return np.array([float(features.tokens) for features in plans])


def check_enough(pairs: int) -> None:
    """Raises ConfigError if so many pairs of prompts cannot show that a promise is kept."""
    if pairs < LEAST_PAIRS:
        raise ConfigError(
            f"{pairs} pairs of prompts are too few: it takes {LEAST_PAIRS} to show that at most "
            f"{BOUNDS['balanced'].share:.0%} of calls break a bound. Bring more prompts that resemble earlier ones."
        )


def cross_fitted(
    plans: Sequence[PlanFeatures], kl: NDArray[np.float64], ratios: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Forecast log KL [calls, ratios], its usual error [calls] and its error [calls, ratios], by fits to other folds.

    As in CV+ (arXiv 1905.02928). The forecast is infinite where a level may not choose a ratio, the error NaN where
    ``kl`` [calls, ratios] is.
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
