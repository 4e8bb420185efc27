"""Recompute what deviates most at the first selective layer (CacheBlend, arXiv 2405.16444).

CacheBlend compares the keys of layer 1 (post-RoPE, float32) and takes the top 15 %; SemShareKV adds the values'
deviation. Tokens that deviate in an early layer deviate in the later ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from semshare_core.select.base import Evidence, Priority, Selection


@dataclass(frozen=True)
class DeviationSelection(Selection):
    """Tokens by ``key_weight * |dK| + value_weight * |dV|`` (CacheBlend: keys only)."""

    needs_deviation = True
    key_weight: float = 1.0
    value_weight: float = 0.0

    def priority(self, evidence: Evidence) -> Priority:
        assert evidence.key_deviation is not None
        assert evidence.value_deviation is not None
        return (self.key_weight * evidence.key_deviation + self.value_weight * evidence.value_deviation).astype(float)
