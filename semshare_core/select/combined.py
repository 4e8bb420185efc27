"""The combination that wins: rows that are both wrong and read.

How wrong a reused row is likely to be follows from the plan: a changed token entirely, the first tokens after a seam or
a change nearly so, a token deep inside an identical run less, and the less the more of what it has read still stands
before it. How much it is read is observed: the prompt's last tokens run once over the reused rows, which costs a few
rows, and their attention, weighted by the values it brings, says which rows the answer will draw on (ProphetKV, arXiv
2602.02579, ranks by the question's attention alone). The product ranks.

Changed tokens come first as long as they leave half of the budget, because a stale fact that the first look overlooks
is the worst that reuse can do. Where they exceed it (paraphrases: a third of the prompt), nearly everything is somewhat
wrong, and how wrong is measured: the deviations of the first selective layer (CacheBlend, arXiv 2405.16444) take the
place of the expected error. Ours; measured by ``benchmarks.prefill``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import ReusePolicy
from semshare_core.match.context import context_mismatch
from semshare_core.match.distance import since_last
from semshare_core.match.plan import ReusePlan
from semshare_core.select.base import Evidence, Priority, Selection, changed
from semshare_core.slots import SELECTIONS

# The shape is that of the relative error of reused values (SmolLM2-135M, mean over layers: changed 0.97, seam 0.85
# falling as 1/distance to 0.2); the floor within runs is higher, because that ranked better on reordered passages.
_ERROR_CHANGED, _ERROR_SEAM, _ERROR_RUN = 1.0, 0.6, 0.4
_KINDRED, _STEEPNESS = 0.1, 4  # of a row in a context like its own this share of the error stays; best of a few tried


@SELECTIONS.register("combined")
@dataclass(frozen=True)
class CombinedSelection(Selection):
    """Likely error, measured where too much changed, times observed influence."""

    needs_influence = True
    needs_deviation_when_crowded = True
    computes_stale = True
    computes_answer = True
    watched_tokens = 8
    halo: int = 2
    seam_halo: int = 4

    @classmethod
    def of(cls, policy: ReusePolicy) -> CombinedSelection:
        return cls(halo=policy.halo, seam_halo=policy.seam_halo)

    def priority(self, evidence: Evidence) -> Priority:
        if evidence.key_deviation is not None and evidence.value_deviation is not None:
            keys, values = evidence.key_deviation.astype(float), evidence.value_deviation.astype(float)
            wrong = 0.5 * keys / (keys.max() + 1e-9) + values / (values.max() + 1e-9)
        else:
            wrong = self._expected_error(evidence.plan)
        if evidence.influence is None:
            return wrong
        read = evidence.influence / (evidence.influence.sum() + 1e-12)
        return wrong * (read + 0.05 / len(read))

    def structural(self, plan: ReusePlan) -> NDArray[np.bool_]:
        near_change = since_last(changed(plan)) <= self.halo
        return np.asarray(near_change | (since_last(plan.seams()) < self.seam_halo))

    def _expected_error(self, plan: ReusePlan) -> Priority:
        new = changed(plan)
        distance = np.minimum(since_last(plan.seams()), since_last(new))
        foreign = _KINDRED + context_mismatch(plan)[0] ** _STEEPNESS
        within_runs = (_ERROR_RUN + _ERROR_SEAM / (1.0 + distance)) * foreign
        return np.where(new, _ERROR_CHANGED * (_KINDRED + 1.0), within_runs)
