"""The governor decides how much of a prompt is recomputed, and whether reuse is worth it at all.

With a calibration (``semshare calibrate``), a level takes the smallest ratio whose forecast divergence is within its
bound. Without one it uses :data:`LEVEL_RULES`: fixed shares that about keep the promises on SmolLM2-135M-Instruct. No
fixed share is safe for every model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.goal import Goal
from semshare_core.budget.needs import Needs
from semshare_core.budget.recompute import Budget, Layers, RecomputePlan, plan_recompute
from semshare_core.budget.wording import MIN_SAVED_TOKENS, behind_prefix, no_ratio, nothing_reusable, within_bound
from semshare_core.match.plan import ReusePlan
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText
from semshare_core.select import selection_for


@dataclass(frozen=True)
class LevelRule:
    """How much a level recomputes on a model without a calibration, and when it reuses nothing.

    Attributes:
        ceiling: the largest recompute ratio.
        least: the smallest recompute ratio, even if the plan shows less change. The extra rows are those that the
            question reads.
        max_fuzzy: the largest share of the suffix that may be served by fuzzy rows.
        min_saving: the smallest share of the suffix that reuse must save.
        max_blocked_coverage: the largest share of the suffix that may be lost to rows that may not serve. Example: one
            pooled prompt covers 90 % of the suffix, but its rows are approximate. The best prompt with usable rows
            covers 70 %. The blocked coverage is 20 %. Above the limit the prompt is computed in full and can then serve
            later prompts. Without the limit the error of a chain of rewrites grows (``python -m benchmarks.pool
            drift``).
    """

    ceiling: float
    least: float
    max_fuzzy: float
    min_saving: float = 0.3
    max_blocked_coverage: float = 0.1


LEVEL_RULES = {
    "high": LevelRule(ceiling=0.7, least=0.6, max_fuzzy=0.2),
    "balanced": LevelRule(ceiling=0.5, least=0.35, max_fuzzy=0.45),
    "fast": LevelRule(ceiling=0.35, least=0.15, max_fuzzy=0.6),
}

UNCALIBRATED = "default"
"""The calibration name in reports if the rules decided: the model has no calibration, or one of another method."""


@dataclass(frozen=True)
class Decision:
    """The governor's decision.

    Attributes:
        budget: of a selective prefill. None: compute the whole suffix.
        bypassed: reuse was possible, but not worth it.
        lossless: the prefix must not have approximate rows, so that the prompt can serve others.
        calibration: name of the calibration that decided. None: no level had to choose.
        expected_kl: the forecast in nats. None: there was no forecast.
        recompute: how the budget is spent. None: there is no budget.
    """

    budget: Budget | None
    reason: ReasonText = NO_REASON
    bypassed: bool = False
    lossless: bool = False
    calibration: str | None = None
    expected_kl: float | None = None
    recompute: RecomputePlan | None = field(default=None, compare=False)


def decide(
    plan: ReusePlan,
    goal: Goal,
    fresh_from: int,
    *,
    layers: Layers,
    blocked_coverage: float = 0.0,
    calibration: Calibration | None = None,
) -> Decision:
    """Decide how much of a plan is recomputed. The goal must allow approximate reuse.

    Args:
        fresh_from: the question's first token.
        layers: the model's layers.
        blocked_coverage: see :class:`LevelRule`.
        calibration: the model's calibration, if it has one.
    """
    selection = selection_for(goal.policy)
    needs = Needs.of(plan, selection, fresh_from)
    if not reusable(plan, needs, fresh_from):
        return Decision(None, nothing_reusable(plan, fresh_from))
    if goal.ratio is not None:
        decision = Decision(Budget(goal.ratio, fill=True), Reason.FIXED_RATIO.text(ratio=goal.ratio))
    else:
        decision = _for_level(PlanFeatures.of(plan, needs, fresh_from), goal, blocked_coverage, calibration)
    if decision.budget is None:
        return replace(decision, reason=behind_prefix(decision.reason, plan))
    return replace(decision, recompute=plan_recompute(plan, needs, selection, goal.policy, decision.budget, layers))


def reusable(plan: ReusePlan, needs: Needs, fresh_from: int) -> bool:
    """Whether the plan serves any token after the prefix and before the question."""
    return bool((needs.suffix & plan.served)[:fresh_from].any())


def plan_features(plan: ReusePlan, goal: Goal, fresh_from: int) -> PlanFeatures | None:
    """The plan's features; None if it is not :func:`reusable`."""
    needs = Needs.of(plan, selection_for(goal.policy), fresh_from)
    return PlanFeatures.of(plan, needs, fresh_from) if reusable(plan, needs, fresh_from) else None


def _for_level(
    features: PlanFeatures, goal: Goal, blocked_coverage: float, calibration: Calibration | None
) -> Decision:
    if blocked_coverage > LEVEL_RULES[goal.level].max_blocked_coverage:
        # a chain of rewrites has moved away from its last lossless prompt: this prompt becomes the next one
        reason = Reason.APPROXIMATE_REFERENCE.text(share=blocked_coverage)
        return Decision(None, reason, bypassed=True, lossless=True)
    if calibration is None or goal.method:
        decision = _by_rule(features, LEVEL_RULES[goal.level])
        why = Reason.NOT_CALIBRATED if calibration is None else Reason.OTHER_METHOD
        return replace(decision, reason=decision.reason or why.text(), calibration=UNCALIBRATED)
    return replace(_by_calibration(features, goal.level, calibration), calibration=calibration.name)


def _by_calibration(features: PlanFeatures, level: str, calibration: Calibration) -> Decision:
    if difference := calibration.difference(features):
        return _too_different(features, difference)
    ratio = calibration.ratio_for(level, features)
    if ratio is None:
        return Decision(None, no_ratio(features, level, calibration), bypassed=True)
    saved = features.suffix - features.computed(ratio)
    if saved < MIN_SAVED_TOKENS:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=features.suffix), bypassed=True)
    if not calibration.pays(features, ratio):
        return Decision(None, Reason.SLOWER.text(saved=saved, tokens=features.suffix), bypassed=True)
    why = within_bound(features, ratio, level)
    return Decision(Budget(ratio, fill=True), why, expected_kl=calibration.expected_kl(features, ratio))


def _by_rule(features: PlanFeatures, rule: LevelRule) -> Decision:
    fuzzy = features.fuzzy / features.free
    if fuzzy > rule.max_fuzzy:
        return _too_different(features, Reason.TOO_FUZZY.text(share=fuzzy))
    n, suffix = features.tokens, features.suffix
    # the shares are of the whole prompt, and a long prefix may leave fewer tokens than that
    computed = min(suffix, max(features.must, min(max(features.worth, int(rule.least * n)), int(rule.ceiling * n))))
    saved = suffix - computed
    if saved < MIN_SAVED_TOKENS or saved < rule.min_saving * suffix:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=suffix), bypassed=True)
    return Decision(Budget(rule.ceiling, fill=False, least=rule.least))


def _too_different(features: PlanFeatures, reason: ReasonText) -> Decision:
    # any two texts share a few common words; to ignore those is no bypass
    return Decision(None, reason, bypassed=features.moved >= MIN_SAVED_TOKENS)
