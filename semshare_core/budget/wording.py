"""A decision of the governor in words: which sentence fits, and with which figures.

All figures count tokens behind the prefix, because those are what the governor decides about.
"""

from __future__ import annotations

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.levels import BOUNDS
from semshare_core.match.plan import ReusePlan
from semshare_core.report.reasons import Reason, ReasonText

MIN_SAVED_TOKENS = 64
"""Fewer cost more in matching and rearranging than they save."""


def nothing_reusable(plan: ReusePlan, fresh_from: int) -> ReasonText:
    """Why nothing behind the prefix of ``plan`` is reused, whose question begins at the token ``fresh_from``."""
    prefix = plan.prefix_tokens
    if prefix:
        reason = Reason.ALL_BUT_THE_QUESTION if prefix >= fresh_from else Reason.ONLY_THE_PREFIX
        return reason.text(prefix=prefix, tokens=len(plan))
    return (Reason.ONLY_THE_QUESTION if plan.served.any() else Reason.NOTHING_TO_REUSE).text()


def behind_prefix(reason: ReasonText, plan: ReusePlan) -> ReasonText:
    """``reason``, which is about the tokens behind the prefix; said so where there is one."""
    prefix = plan.prefix_tokens
    return Reason.BEHIND_PREFIX.text(prefix=prefix, tokens=len(plan), rest=reason) if prefix else reason


def no_ratio(features: PlanFeatures, level: str, calibration: Calibration) -> ReasonText:
    """Why no recompute ratio serves ``level``."""
    bound, suffix = BOUNDS[level].kl, features.suffix
    if calibration.margins.get(level) is None:
        return Reason.NO_MARGIN.text(level=level, bound=bound)
    choices = [features.computed(ratio) for ratio in calibration.choices(features)]
    if not choices:
        return Reason.TOO_MUCH_CHANGED.text(must=features.must, tokens=suffix)
    saving = [computed for computed in choices if suffix - computed >= MIN_SAVED_TOKENS]
    if not saving:  # whatever the forecast of the others
        return Reason.TOO_LITTLE_SAVED.text(saved=suffix - min(choices), tokens=suffix)
    reason = Reason.BEYOND_BOUND_WITH_APPROXIMATE_ROWS if features.inherited else Reason.BEYOND_BOUND
    return reason.text(computed=max(saving), tokens=suffix, level=level, bound=bound)


def within_bound(features: PlanFeatures, ratio: float, level: str) -> ReasonText:
    """Why ``ratio`` serves ``level``."""
    computed = features.computed(ratio)
    return Reason.WITHIN_BOUND.text(computed=computed, tokens=features.suffix, level=level, bound=BOUNDS[level].kl)
