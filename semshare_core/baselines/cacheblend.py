"""CacheBlend (Yao et al., arXiv 2405.16444): recompute what deviates most at the first selective layer.

Passages serve wherever they stand, so identical runs are reused and nothing else is. CacheBlend compares the keys of
layer 1 (post-RoPE, float32) and recomputes the top 15 % of the tokens in every deeper layer: tokens that deviate in an
early layer deviate in the later ones.
"""

from __future__ import annotations

from typing import Any

from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.slots import PRESETS, SELECTIONS


@PRESETS.register("cacheblend")
def preset() -> dict[str, Any]:
    """What :meth:`semshare_core.ReusePolicy.cacheblend` sets."""
    return {"selection": "deviation", "matching": "runs"}


@SELECTIONS.register("deviation")
class DeviationSelection(Selection):
    """Tokens by how far their reused keys lie from the fresh ones."""

    needs_deviation = True

    def priority(self, evidence: Evidence) -> Priority:
        assert evidence.key_deviation is not None
        return evidence.key_deviation.astype(float)
