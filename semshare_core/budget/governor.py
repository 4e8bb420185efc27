"""The governor decides how much of a prompt is recomputed, and whether reuse is worth it at all.

With a calibration (``semshare calibrate``), a level takes the smallest ratio whose forecast divergence is within its
bound. Without one it uses :data:`LEVEL_RULES`: fixed shares that about keep the promises on SmolLM2-135M-Instruct. No
fixed share is safe for every model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from semshare_core.budget.account import assumed_account
from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS
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
    """

    ceiling: float
    least: float
    max_fuzzy: float
    min_saving: float = 0.3


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
        calibration: name of the calibration that decided, or from whose accounts an approximate prefix serves. None: no
            level had to choose.
        expected_kl: the forecast in nats. None: there was no forecast.
        account: of the call's approximate rows, in nats; infinite: not known.
        recompute: how the budget is spent. None: there is no budget.
    """

    budget: Budget | None
    reason: ReasonText = NO_REASON
    bypassed: bool = False
    calibration: str | None = None
    expected_kl: float | None = None
    account: float = math.inf
    recompute: RecomputePlan | None = field(default=None, compare=False)


def decide(
    plan: ReusePlan,
    goal: Goal,
    fresh_from: int,
    last_answer: range = range(0),
    *,
    layers: Layers,
    calibration: Calibration | None = None,
) -> Decision:
    """Decide how much of a plan is recomputed. The goal must allow approximate reuse.

    Args:
        fresh_from: the question's first token.
        last_answer: the tokens that begin the model's last answer.
        layers: the model's layers.
        calibration: the model's calibration, if it has one.
    """
    selection = selection_for(goal.policy)
    needs = Needs.of(plan, selection, fresh_from, last_answer)
    if not reusable(plan, needs, fresh_from):
        # an approximate prefix serves because a level's bound allows its account
        judged = plan.account is not None and goal.ratio is None
        return Decision(
            None, nothing_reusable(plan, fresh_from), calibration=_name(goal, calibration) if judged else None
        )
    features = PlanFeatures.of(plan, needs, fresh_from)
    if goal.ratio is not None:
        decision = _for_ratio(features, goal, goal.ratio, calibration)
        decision = replace(decision, reason=Reason.FIXED_RATIO.text(ratio=goal.ratio))
    else:
        decision = _for_level(features, goal, calibration, layers.device)
    if decision.budget is None:
        return replace(decision, reason=behind_prefix(decision.reason, plan))
    recompute = plan_recompute(plan, needs, selection, goal.policy, decision.budget, layers)
    return replace(decision, account=features.with_kept(decision.account), recompute=recompute)


def reusable(plan: ReusePlan, needs: Needs, fresh_from: int) -> bool:
    """Whether the plan serves any token after the prefix and before the question."""
    return bool((needs.suffix & plan.served)[:fresh_from].any())


def plan_features(plan: ReusePlan, goal: Goal, fresh_from: int, last_answer: range = range(0)) -> PlanFeatures | None:
    """The plan's features; None if it is not :func:`reusable` and draws on no approximate row."""
    needs = Needs.of(plan, selection_for(goal.policy), fresh_from, last_answer)
    lossless = plan.account is None and not reusable(plan, needs, fresh_from)
    return None if lossless else PlanFeatures.of(plan, needs, fresh_from)


def _for_ratio(features: PlanFeatures, goal: Goal, ratio: float, calibration: Calibration | None) -> Decision:
    budget = Budget(ratio, fill=True)
    if goal.method or math.isinf(features.inherited):  # nothing is known of other methods, nor of rows they made
        return Decision(budget)
    if calibration is not None:
        return Decision(
            budget,
            expected_kl=calibration.expected_kl(features, ratio),
            account=calibration.account(features, ratio),
        )
    level = next((name for name, rule in LEVEL_RULES.items() if rule.least <= ratio), None)
    if level is None:
        return Decision(budget)
    account = assumed_account(level, features.inherited, features.computed(ratio) / features.tokens)
    return Decision(budget, expected_kl=account, account=account)


def _for_level(features: PlanFeatures, goal: Goal, calibration: Calibration | None, device: str) -> Decision:
    if calibration is None or goal.method:
        decision = _by_rule(features, goal)
        why = Reason.NOT_CALIBRATED if calibration is None else Reason.OTHER_METHOD
        return replace(decision, reason=decision.reason or why.text(), calibration=UNCALIBRATED)
    return replace(_by_calibration(features, goal.level, calibration, device), calibration=_name(goal, calibration))


def _name(goal: Goal, calibration: Calibration | None) -> str:
    """What decides, as reports name it."""
    return UNCALIBRATED if calibration is None or goal.method else calibration.name


def _by_calibration(features: PlanFeatures, level: str, calibration: Calibration, device: str) -> Decision:
    if difference := calibration.difference(features):
        return _too_different(features, difference)
    ratio = calibration.ratio_for(level, features)
    if ratio is None:
        return Decision(None, no_ratio(features, level, calibration), bypassed=True)
    saved = features.suffix - features.computed(ratio)
    if saved < MIN_SAVED_TOKENS:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=features.suffix), bypassed=True)
    if not calibration.pays(features, ratio, device):
        return Decision(None, Reason.SLOWER.text(saved=saved, tokens=features.suffix), bypassed=True)
    return Decision(
        Budget(ratio, fill=True),
        within_bound(features, ratio, level),
        expected_kl=calibration.expected_kl(features, ratio),
        account=calibration.account(features, ratio),
    )


def _by_rule(features: PlanFeatures, goal: Goal) -> Decision:
    rule = LEVEL_RULES[goal.level]
    fuzzy = features.fuzzy / features.free
    if fuzzy > rule.max_fuzzy:
        return _too_different(features, Reason.TOO_FUZZY.text(share=fuzzy))
    n, suffix = features.tokens, features.suffix
    # the shares are of the whole prompt, and a long prefix may leave fewer tokens than that
    computed = min(suffix, max(features.must, min(max(features.worth, int(rule.least * n)), int(rule.ceiling * n))))
    saved = suffix - computed
    if saved < MIN_SAVED_TOKENS or saved < rule.min_saving * suffix:
        return Decision(None, Reason.TOO_LITTLE_SAVED.text(saved=saved, tokens=suffix), bypassed=True)
    budget = Budget(rule.ceiling, fill=False, least=rule.least)
    if goal.method:
        return Decision(budget)
    account, bound = assumed_account(goal.level, features.inherited, computed / n), BOUNDS[goal.level].kl
    if account > bound:
        return Decision(None, Reason.APPROXIMATE_ROWS.text(level=goal.level, bound=bound), bypassed=True)
    return Decision(budget, expected_kl=account, account=account)


def _too_different(features: PlanFeatures, reason: ReasonText) -> Decision:
    # any two texts share a few common words; to ignore those is no bypass
    return Decision(None, reason, bypassed=features.moved >= MIN_SAVED_TOKENS)
