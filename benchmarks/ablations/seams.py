"""Recompute the first tokens after each seam.

A chunk that moved was computed after another text (or at a prompt's start, where its first tokens became attention
sinks): its first tokens carry that context. EPIC / LegoLink (arXiv 2410.15332) recomputes the first tokens of each
chunk; here seams are where the reuse plan jumps, so no chunk borders have to be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import ReusePolicy
from semshare_core.match.distance import since_last
from semshare_core.match.plan import ReusePlan
from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.slots import SELECTIONS


@SELECTIONS.register("seams")
@dataclass(frozen=True)
class SeamSelection(Selection):
    """Tokens by distance after a seam; the first ``halo`` are what a level's budget reaches."""

    halo: int = 4

    @classmethod
    def of(cls, policy: ReusePolicy) -> SeamSelection:
        return cls(halo=policy.seam_halo)

    def priority(self, evidence: Evidence) -> Priority:
        distance = since_last(evidence.plan.seams())
        return np.where(distance < self.halo, 2.0, 1.0) / (1.0 + distance)

    def structural(self, plan: ReusePlan) -> NDArray[np.bool_]:
        return np.asarray(since_last(plan.seams()) < self.halo)
