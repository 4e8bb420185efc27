"""Recompute tokens at random: the ablation that shows what a ranking is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semshare_core.config import ReusePolicy
from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.slots import SELECTIONS


@SELECTIONS.register("random")
@dataclass(frozen=True)
class RandomSelection(Selection):
    """A random order, fixed by ``seed``."""

    seed: int = 0

    @classmethod
    def of(cls, policy: ReusePolicy) -> RandomSelection:
        return cls(seed=policy.seed)

    def priority(self, evidence: Evidence) -> Priority:
        return np.random.default_rng(self.seed).random(len(evidence.plan))
