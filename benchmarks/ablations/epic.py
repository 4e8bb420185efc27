"""EPIC as published: the first 128 tokens behind each seam are computed, everything else is reused as it is.

EPIC / LegoLink, arXiv 2410.15332. In a study of 683 compactions of coding agents it computed 10.8 % of the rows at a
KL of 0.012. It has no ranking: give it :func:`epic_ratio` as its recompute ratio, which is what its heads cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablations.seams import SeamSelection
from semshare_core.budget.needs import Needs
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan
from semshare_core.slots import SELECTIONS

HEAD = 128


@SELECTIONS.register("epic")
@dataclass(frozen=True)
class EpicSelection(SeamSelection):
    """Heads of :data:`HEAD` tokens; the policy's ``seam_halo`` is ours and does not change them."""

    halo: int = HEAD

    @classmethod
    def of(cls, policy: ReusePolicy) -> EpicSelection:
        return cls()


def epic_ratio(plan: ReusePlan, fresh_from: int) -> float:
    """The share of the prompt that EPIC computes: new tokens, the question from ``fresh_from`` on, and the heads."""
    wanted: NDArray[np.bool_] = Needs.of(plan, EpicSelection(), fresh_from).worth
    return float(wanted.mean())
