"""SemShareKV's choice (arXiv 2509.24832): high-deviation tokens, weighted by how much attention they get.

Layer 1 computes everything; deviation = |dK| + |dV|; the top 40 % are the high-deviation (HD) tokens. Deeper layers
recompute HD tokens ranked with weights 0.5 (hot: the fewest tokens holding 55 % of the attention) and 0.1 (cold). The
weights' exact role is not published in what we could read; here they scale the deviation in the ranking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.slots import SELECTIONS


@SELECTIONS.register("paper")
@dataclass(frozen=True)
class PaperSelection(Selection):
    """HD tokens first, hot ones before cold ones."""

    needs_deviation = True
    needs_hot = True
    high_deviation: float = 0.4
    hot_weight: float = 0.5
    cold_weight: float = 0.1

    def priority(self, evidence: Evidence) -> Priority:
        assert evidence.key_deviation is not None
        assert evidence.value_deviation is not None
        deviation = (evidence.key_deviation + evidence.value_deviation).astype(float)
        window = deviation > 0
        threshold = np.quantile(deviation[window], 1 - self.high_deviation) if window.any() else 0.0
        weight = np.full(len(deviation), self.cold_weight)
        if evidence.hot is not None:
            weight[evidence.hot] = self.hot_weight
        high = deviation >= threshold
        # beyond the HD set only an explicit, larger budget reaches; keep its order below every HD token
        scale = deviation.max(initial=0.0) + 1e-9
        return np.where(high, 1.0 + deviation * weight / scale, 0.05 * deviation / scale)
