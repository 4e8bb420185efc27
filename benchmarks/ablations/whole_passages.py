"""Recompute whole passages: those that the question reads most, from seam to seam.

Contiguous spans instead of single tokens (arXiv 2609.17983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semshare_core.select.base import Evidence, Priority
from semshare_core.select.combined import CombinedSelection
from semshare_core.slots import SELECTIONS


@SELECTIONS.register("whole_passages")
@dataclass(frozen=True)
class WholePassages(CombinedSelection):
    """Passages by the mean influence of their rows, the rows of each in the order of the text."""

    needs_deviation_when_crowded = False

    def priority(self, evidence: Evidence) -> Priority:
        passage = np.cumsum(evidence.plan.seams())
        if evidence.influence is None:
            return -passage.astype(float)
        mean = np.bincount(passage, weights=evidence.influence) / np.maximum(np.bincount(passage), 1)
        ranked = np.empty(len(mean))
        ranked[np.argsort(mean)] = np.arange(len(mean))
        return ranked[passage]
