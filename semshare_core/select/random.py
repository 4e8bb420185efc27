"""Recompute tokens at random: the ablation that shows what a ranking is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semshare_core.select.base import Evidence, Priority, Selection


@dataclass(frozen=True)
class RandomSelection(Selection):
    """A random order, fixed by ``seed``."""

    seed: int = 0

    def priority(self, evidence: Evidence) -> Priority:
        return np.random.default_rng(self.seed).random(len(evidence.plan))
