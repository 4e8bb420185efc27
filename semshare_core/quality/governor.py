"""The governor: how much to recompute for the level asked for, or whether to reuse at all.

The levels' numbers are starting values, chosen by looking at SmolLM2-135M-Instruct on RAG prompts of about 1,600 tokens
and on reordered passages of 4,700; they are not bounds: models differ, and no fixed ratio is safe across them.
Calibration per model is not built yet. ``python -m benchmarks.prefill`` measures ``balanced`` beside fixed ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.prefill.allotment import Budget, Needs
from semshare_core.prefill.selection import selection_for

_MIN_SAVED_TOKENS = 64  # fewer cost more in matching and rearranging than they save


@dataclass(frozen=True)
class LevelRule:
    """What a level spends and when it gives up.

    Attributes:
        ceiling: largest recompute ratio; what the strategy finds worth less is left reused.
        least: recompute ratio that is spent even where the plan shows less change, on the rows that the question reads.
        max_fuzzy: largest share of the tokens behind the prefix that may be served fuzzily.
        min_saving: smallest share of the tokens behind the prefix that must be saved for reuse to pay.
        max_barred: by how much, as a share of the tokens behind the prefix, the prompt that resembles this one most may
            exceed the one that resembles it most by rows that may serve; beyond it the prompt is computed in full, so
            that it can serve those that follow it. Without it the error of a chain of rewrites grows, as prompts are
            patched together from ever older ones (``python -m benchmarks.pool drift``).
    """

    ceiling: float
    least: float
    max_fuzzy: float
    min_saving: float = 0.3
    max_barred: float = 0.1


LEVEL_RULES = {
    "high": LevelRule(ceiling=0.6, least=0.3, max_fuzzy=0.2),
    "balanced": LevelRule(ceiling=0.4, least=0.15, max_fuzzy=0.45),
    "fast": LevelRule(ceiling=0.25, least=0.08, max_fuzzy=0.6),
}


@dataclass(frozen=True)
class Decision:
    """``budget`` of a selective prefill, or None: compute everything behind the prefix.

    ``lossless``: and have no approximate rows in that prefix, so that the prompt can serve others.
    """

    budget: Budget | None
    reason: str = ""
    bypassed: bool = False
    lossless: bool = False


def decide(plan: ReusePlan, policy: ReusePolicy, fresh_from: int, *, barred: float = 0.0) -> Decision:
    """Choose the recomputation for a plan whose policy allows approximate reuse.

    Args:
        fresh_from: the question's first token.
        barred: by how much more of them some one prompt holds in rows too deep to serve; see :class:`LevelRule`.
    """
    n = len(plan)
    needs = Needs.of(plan, selection_for(policy), fresh_from)
    free = needs.window & (np.arange(n) < fresh_from)  # what need not be computed in any case
    if not (free & plan.served).any():
        return Decision(None, "no reference shares more than the prefix" if plan.prefix_tokens else "nothing to reuse")
    if policy.recompute_ratio is not None:
        return Decision(Budget(policy.recompute_ratio, fill=True))
    if policy.level is None and policy.schedule == "decay":
        return Decision(Budget(_published_ratio(policy), fill=True))
    rule = LEVEL_RULES[policy.level or "balanced"]
    window = n - plan.prefix_tokens
    fuzzy = int((free & (plan.source == Source.FUZZY)).sum()) / int(free.sum())
    if fuzzy > rule.max_fuzzy:
        reason = f"too different: {fuzzy:.0%} of the tokens have no identical run"
        # a few common words are shared by any two texts; not to use them is no decision
        return Decision(None, reason, bypassed=plan.count(Source.EXACT) >= _MIN_SAVED_TOKENS)
    if barred > rule.max_barred:
        # a chain of rewrites has left its last lossless prompt behind: this one becomes the next
        reason = f"the prompt that shares {barred:.0%} more than any other has approximate rows, which may not serve"
        return Decision(None, reason, bypassed=True, lossless=True)
    must, worth = int(needs.must.sum()), int(needs.worth.sum())
    computed = max(must, min(max(worth, int(rule.least * n)), int(rule.ceiling * n)))
    saved = window - computed
    if saved < _MIN_SAVED_TOKENS or saved < rule.min_saving * window:
        return Decision(None, f"only {saved} of {window} tokens would be saved", bypassed=True)
    return Decision(Budget(rule.ceiling, fill=False, least=rule.least))


def _published_ratio(policy: ReusePolicy, share: float = 0.4, layers: int = 30) -> float:
    """Average ratio of the paper's schedule: everything in layer 1, 40 % in layer 2, then falling by ``decay``."""
    return (1 + share * sum(policy.decay**step for step in range(layers - 1))) / layers
