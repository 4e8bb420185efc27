"""The combination that wins: changed tokens and seams with their halos; value deviation where they exceed the budget.

While the changed tokens and seams fit the budget nothing has to be measured, and the first layer is selective like all
others. What is left of an explicit budget widens the halos. Where they do not fit (paraphrases: a third of the tokens
changed), the deviations of the first selective layer rank all tokens. Ours; measured in ``python -m benchmarks.prefill``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import ReusePlan
from semshare_core.prefill.selection.base import Evidence, Priority, Selection, changed, since_last


@dataclass(frozen=True)
class CombinedSelection(Selection):
    """Structure first, deviation when structure is too large for the budget."""

    halo: int = 2
    seam_halo: int = 4
    key_weight: float = 0.5
    value_weight: float = 1.0

    def priority(self, evidence: Evidence) -> Priority:
        if evidence.value_deviation is None or evidence.key_deviation is None:
            return self._by_distance(evidence.plan)
        keys, values = evidence.key_deviation.astype(float), evidence.value_deviation.astype(float)
        return self.key_weight * keys / (keys.max() + 1e-9) + self.value_weight * values / (values.max() + 1e-9)

    def structural(self, plan: ReusePlan) -> NDArray[np.bool_]:
        near_change = since_last(changed(plan)) <= self.halo
        return np.asarray(near_change | (since_last(plan.seams()) < self.seam_halo))

    def _by_distance(self, plan: ReusePlan) -> Priority:
        distance = np.minimum(since_last(changed(plan)), since_last(plan.seams()))
        return np.where(self.structural(plan), 2.0, 1.0) / (1.0 + distance)
