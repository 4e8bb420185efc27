"""Which tokens to recompute: a strategy ranks them, the budget says how many of the ranking are taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source

Priority = NDArray[np.float64]

HOT_MASS = 0.55
"""The hot tokens are the fewest that have this share of the question's attention (SemShareKV)."""


@dataclass(frozen=True)
class Evidence:
    """What is known when the choice is made. Arrays have length n = prompt tokens.

    Attributes:
        plan: where each token's rows come from.
        key_deviation: L2 distance of reused and fresh keys at the first selective layer; None before measuring.
        value_deviation: the same for values.
        hot: True for the fewest tokens that hold most of the question's attention; None where not observed.
        influence: how much each reused row moves the outputs of the question's tokens; None where not observed.
    """

    plan: ReusePlan
    key_deviation: NDArray[np.float32] | None = None
    value_deviation: NDArray[np.float32] | None = None
    hot: NDArray[np.bool_] | None = None
    influence: NDArray[np.float64] | None = None


class Selection(ABC):
    """Ranks tokens for recomputation.

    Attributes:
        needs_deviation: ranking needs the deviations of the first selective layer.
        needs_hot: ranking needs the hot tokens.
        needs_influence: ranking needs the question's influences.
        watched_tokens: how many last tokens are observed for hot tokens or influences.
        needs_deviation_when_crowded: where the changed tokens exceed the budget, ranking needs the deviations, too.
        computes_stale: facts that differ from the rows that serve them, and what was matched misaligned, are computed,
            whatever the budget says.
        computes_answer: the begin of the model's last answer is computed, whatever the budget says.
    """

    needs_deviation: bool = False
    needs_hot: bool = False
    needs_influence: bool = False
    needs_deviation_when_crowded: bool = False
    computes_stale: bool = False
    computes_answer: bool = False
    watched_tokens: int = 16

    @classmethod
    def of(cls, policy: ReusePolicy) -> Selection:
        """The selection with the settings that ``policy`` has for it."""
        return cls()

    @abstractmethod
    def priority(self, evidence: Evidence) -> Priority:
        """Priority float [n]: higher is recomputed earlier. What ``evidence`` holds is what the attributes ask for."""

    def structural(self, plan: ReusePlan) -> NDArray[np.bool_]:
        """Tokens that the plan alone shows to be worth recomputing; empty for strategies that measure."""
        return np.zeros(len(plan), bool)


def changed(plan: ReusePlan) -> NDArray[np.bool_]:
    """Tokens that no identical run serves."""
    return np.asarray((plan.source == Source.FUZZY) | (plan.source == Source.NEW))
