"""Fit a calibration to observations: the forecast's usual errors, each level's margin, and the cost of a prefill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.calibration import Calibration, Observation, by_ratio, choices, kl_table
from semshare_core.budget.cost import CostModel
from semshare_core.budget.features import PlanFeatures, feature_matrix
from semshare_core.budget.forecast import KL_FLOOR, Forecast, log_kl
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.spread import UsualError
from semshare_core.calibrate.chain_accounts import with_accounts
from semshare_core.calibrate.risk import margin_for
from semshare_core.errors import ConfigError

LEAST_PAIRS = 45
"""Fewer pairs cannot show that a promise of 5 % is kept, even if no call breaks its bound."""

ACCOUNT_QUANTILE = 0.9
"""An account is this quantile of what such calls were measured to be."""

_FOLDS = 10
_ROUNDS = 3  # the accounts of chains follow from the forecast, which reads them; a fourth round changes little


def fit_calibration(
    observations: Sequence[Observation],
    fingerprint: Mapping[str, str],
    prompts: str,
    ratios: Sequence[float],
    device: str = "cpu",
) -> Calibration:
    """Choose each level's margin with forecasts that have not seen the call, nor its chain (cross-fitting).

    Chains that a fixed ratio served are only for the forecast: no level would have left the pool like that.

    Args:
        observations: of pairs and chains.
        fingerprint: of model, tokenizer and dtype.
        prompts: a description of the pairs.
        ratios: the recompute ratios.
        device: the kind of device that all of them were measured on.

    Raises:
        ConfigError: there are too few observations.
    """
    check_enough(len({item.unit for item in observations}))
    kl = kl_table(observations, ratios)
    kinds, units = np.array([item.kind for item in observations]), np.array([item.unit for item in observations])
    plans, (forecast, spread, errors) = _with_plans(observations, kl, ratios, units)
    for _ in range(_ROUNDS if any(item.chain for item in observations) else 0):
        upper = log_kl(kl) - errors + account_margin(errors, spread) * spread[:, None]
        observations = with_accounts(observations, kl, np.maximum(0.0, np.exp(upper) - KL_FLOOR))
        plans, (forecast, spread, errors) = _with_plans(observations, kl, ratios, units)
    tokens, at = token_counts(plans), promised(observations)
    margins = {
        level: margin_for(
            forecast[at], spread[at], log_kl(kl[at]), float(log_kl(bound.kl)), bound.share, kinds[at], units[at]
        )
        for level, bound in BOUNDS.items()
    }
    cost = CostModel.fit(
        tokens,
        np.array([item.full_seconds for item in observations]),
        np.array([[float(features.computed(ratio)) for ratio in ratios] for features in plans]),
        by_ratio([(item.ratios, item.seconds) for item in observations], ratios),
        device,
    )
    return Calibration(
        fingerprint=dict(fingerprint),
        prompts=prompts,
        ratios=list(ratios),
        margins=margins,
        account_margin=account_margin(errors, spread),
        spread=UsualError.fit(tokens, errors, drawing(plans)),
        cost=cost,
        observations=list(observations),
    )


def _with_plans(
    observations: Sequence[Observation], kl: NDArray[np.float64], ratios: Sequence[float], units: NDArray[np.str_]
) -> tuple[list[PlanFeatures], tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    plans = [item.features for item in observations]
    return plans, cross_fitted(plans, kl, ratios, units)


def promised(observations: Sequence[Observation]) -> NDArray[np.int64]:
    """The indices of the observations to which a level's promise applies: pairs, and chains that a level served."""
    return np.flatnonzero([not item.chain or bool(item.level) for item in observations])


def account_margin(errors: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """How many usual errors above the forecast an account lies: a quantile of standardized errors of unseen calls.

    Args:
        errors: [calls, ratios], of the log KL; NaN where a ratio was not measured.
        spread: [calls], the forecast's usual errors.
    """
    return float(np.nanquantile(errors / spread[:, None], ACCOUNT_QUANTILE))


def token_counts(plans: Sequence[PlanFeatures]) -> NDArray[np.float64]:
    """The length of each prompt in tokens, float64 [plans]."""
    return np.array([float(features.tokens) for features in plans])


def drawing(plans: Sequence[PlanFeatures]) -> NDArray[np.bool_]:
    """Whether each prompt draws on approximate rows, bool [plans]."""
    return np.array([features.approximate > 0 for features in plans])


def check_enough(pairs: int) -> None:
    """Raise ConfigError if there are too few pairs and chains to show that a promise is kept."""
    if pairs < LEAST_PAIRS:
        raise ConfigError(
            f"{pairs} pairs of prompts are too few: {LEAST_PAIRS} are needed to show that at most "
            f"{BOUNDS['balanced'].share:.0%} of calls break a bound. Add more prompts that resemble earlier ones."
        )


def cross_fitted(
    plans: Sequence[PlanFeatures],
    kl: NDArray[np.float64],
    ratios: Sequence[float],
    units: Iterable[object] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Forecast each call from the other folds, as in CV+ (arXiv 1905.02928).

    Args:
        plans: the features of each call's plan.
        kl: [calls, ratios] in nats; NaN where a ratio was not measured.
        ratios: the recompute ratios.
        units: the chain or the pair of each call. A unit is in one fold as a whole. None: each call is its own unit.

    Returns:
        The forecast log KL [calls, ratios], infinite where a level may not choose the ratio; its usual error [calls];
        and its error [calls, ratios], NaN where ``kl`` is NaN.
    """
    features, tokens, approximate = feature_matrix(plans, ratios), token_counts(plans), drawing(plans)
    fold = folds(range(len(plans)) if units is None else units)
    forecast, spread = np.empty_like(kl), np.empty(len(kl))
    for number in range(_FOLDS):
        out = fold == number
        forecast[out] = Forecast(features[~out], kl[~out]).log_kl(features[out])
    errors = log_kl(kl) - forecast
    for number in range(_FOLDS):
        out = fold == number
        usual = UsualError.fit(tokens[~out], errors[~out], approximate[~out])
        spread[out] = usual.of(tokens[out], approximate[out])
    offered = np.array([np.isin(ratios, choices(features, ratios)) for features in plans])
    reached = np.maximum.accumulate(~np.isnan(kl), axis=1)  # a ratio above all measured ones counts as the largest
    return np.where(offered & reached, forecast, np.inf), spread, errors


def folds(units: Iterable[object]) -> NDArray[np.int64]:
    """The fold of each call [calls]: units are dealt out in turn, in the order in which they first appear."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(unit, len(number)) % _FOLDS for unit in units], np.int64)
