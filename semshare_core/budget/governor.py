"""The governor: how much to recompute for the level asked for, or whether to reuse at all.

With a calibration of the model (``semshare calibrate``) a level takes the smallest ratio whose forecast divergence is
within its bound. Without one it goes by :data:`LEVEL_RULES`: fixed amounts, about what keeps the promises on
SmolLM2-135M-Instruct with hardly a look at the prompt. No fixed amount is safe across models.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.needs import Needs
from semshare_core.budget.recompute import Budget, Layers, RecomputePlan, plan_recompute
from semshare_core.match.plan import ReusePlan
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText
from semshare_core.select import selection_for

_MIN_SAVED_TOKENS = 64  # fewer cost more in matching and rearranging than they save


@dataclass(frozen=True)
class LevelRule:
    """What a level spends on a model that was not calibrated, and when it gives up.

    Attributes:
        ceiling: largest recompute ratio; what the strategy finds worth less is left reused.
        least: recompute ratio that is spent even where the plan shows less change, on the rows that the question reads.
        max_fuzzy: largest share of the tokens behind the prefix that may be served fuzzily.
        min_saving: smallest share of the tokens behind the prefix that must be saved for reuse to pay.
        max_blocked_coverage: how much coverage may be lost to rows that may not serve, as a share of the tokens behind
            the prefix. Example: one pooled prompt has 90 % of them, but its rows are approximate; the best prompt whose
            rows may serve has 70 %; the blocked coverage is 20 %. Beyond the limit the prompt is computed in full, so
            that it can serve those that follow. Without the limit the error of a chain of rewrites grows
            (``python -m benchmarks.pool drift``).
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
"""What reports name where the levels' rules decided: no calibration of the model, or one of another method."""


@dataclass(frozen=True)
class Decision:
    """``budget`` of a selective prefill, or None: compute everything behind the prefix.

    Attributes:
        recompute: how the budget is spent; None where there is none.
        lossless: have no approximate rows in that prefix, so that the prompt can serve others.
        calibration: name of the calibration that a level went by; None: no level had to choose.
        expected_kl: forecast, in nats; None: there was none.
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
    """Choose the recomputation for a plan whose goal allows approximate reuse.

    Args:
        fresh_from: the question's first token.
        layers: of the model.
        blocked_coverage: coverage lost to rows that may not serve; see :class:`LevelRule`.
        calibration: of the model, if it has one.
    """
    selection = selection_for(goal.policy)
    needs = Needs.of(plan, selection, fresh_from)
    if not reusable(plan, needs, fresh_from):
        return Decision(None, (Reason.ONLY_THE_PREFIX if plan.prefix_tokens else Reason.NOTHING_TO_REUSE).text())
    if goal.ratio is not None:
        decision = Decision(Budget(goal.ratio, fill=True))
    else:
        decision = _for_level(PlanFeatures.of(plan, needs, fresh_from), goal, blocked_coverage, calibration)
    if decision.budget is None:
        return decision
    return replace(decision, recompute=plan_recompute(plan, needs, selection, goal.policy, decision.budget, layers))


def reusable(plan: ReusePlan, needs: Needs, fresh_from: int) -> bool:
    """Whether anything is served that could be left as it is."""
    return bool((needs.suffix & plan.served)[:fresh_from].any())


def plan_features(plan: ReusePlan, goal: Goal, fresh_from: int) -> PlanFeatures | None:
    """The plan in numbers; None if nothing is served that could be left as it is."""
    needs = Needs.of(plan, selection_for(goal.policy), fresh_from)
    return PlanFeatures.of(plan, needs, fresh_from) if reusable(plan, needs, fresh_from) else None


def _for_level(
    features: PlanFeatures, goal: Goal, blocked_coverage: float, calibration: Calibration | None
) -> Decision:
    if blocked_coverage > LEVEL_RULES[goal.level].max_blocked_coverage:
        # a chain of rewrites has left its last lossless prompt behind: this one becomes the next
        reason = Reason.APPROXIMATE_REFERENCE.text(share=blocked_coverage)
        return Decision(None, reason, bypassed=True, lossless=True)
    if calibration is None or goal.method:
        made = _by_rule(features, LEVEL_RULES[goal.level])
        why = Reason.NOT_CALIBRATED if calibration is None else Reason.OTHER_METHOD
        return replace(made, reason=made.reason or why.text(), calibration=UNCALIBRATED)
    return replace(_by_calibration(features, goal.level, calibration), calibration=calibration.name)


def _by_calibration(features: PlanFeatures, level: str, calibration: Calibration) -> Decision:
    unlike = calibration.unlike(features)
    if unlike:
        return _too_different(features, unlike)
    ratio = calibration.ratio_for(level, features)
    if ratio is None:
        most = max((features.computed(each) for each in calibration.choices(features)), default=features.must)
        share = most / features.tokens
        reason = Reason.BEYOND_BOUND.text(share=share, level=level, bound=BOUNDS[level].kl)
        return Decision(None, reason, bypassed=True)
    saved = features.suffix - features.computed(ratio)
    if saved < _MIN_SAVED_TOKENS:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=features.suffix), bypassed=True)
    if not calibration.pays(features, ratio):
        return Decision(None, Reason.SLOWER.text(saved=saved, tokens=features.suffix), bypassed=True)
    return Decision(Budget(ratio, fill=True), expected_kl=calibration.expected_kl(features, ratio))


def _by_rule(features: PlanFeatures, rule: LevelRule) -> Decision:
    fuzzy = features.fuzzy / features.free
    if fuzzy > rule.max_fuzzy:
        return _too_different(features, Reason.TOO_FUZZY.text(share=fuzzy))
    n, suffix = features.tokens, features.suffix
    computed = max(features.must, min(max(features.worth, int(rule.least * n)), int(rule.ceiling * n)))
    saved = suffix - computed
    if saved < _MIN_SAVED_TOKENS or saved < rule.min_saving * suffix:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=suffix), bypassed=True)
    return Decision(Budget(rule.ceiling, fill=False, least=rule.least))


def _too_different(features: PlanFeatures, reason: ReasonText) -> Decision:
    # a few common words are shared by any two texts; not to use them is no decision
    return Decision(None, reason, bypassed=features.moved >= _MIN_SAVED_TOKENS)
