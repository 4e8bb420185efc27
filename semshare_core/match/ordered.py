"""Order-aware fuzzy matching: text keeps its order, so look where the neighbours of a token were found.

Exact runs are anchors. Between two anchors of one reference the expected position of a token is interpolated, outside
them it continues the nearest anchor's diagonal. Around that position the reference token with the most similar
embedding wins, minus a small penalty for distance. Ours; the alignment idea is old (sentence alignment by anchors,
Kay & Roscheisen 1993) and KVShare (arXiv 2503.16525) aligns by edit distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.token_table import TokenTable
from semshare_core.tokens import Positions, Tokens


@dataclass(frozen=True)
class OrderedMatcher:
    """Most similar reference token near the position that the anchors imply.

    Attributes:
        table: token embeddings.
        window: how far from the expected position a match may lie, in tokens.
        penalty: similarity lost at the window's edge.
    """

    table: TokenTable
    window: int = 24
    penalty: float = 0.3

    def match(
        self, target: Tokens, wanted: Positions, reference: Tokens, anchors: Positions
    ) -> tuple[Positions, NDArray[np.float32]]:
        """Map target positions ``wanted`` [m] to reference positions [m], with their cosine similarities [m].

        ``anchors`` [n] holds the reference position of every target token already served, -1 elsewhere.
        """
        if not len(wanted) or not len(reference):
            return np.full(len(wanted), -1, np.int64), np.full(len(wanted), -2.0, np.float32)
        expected = expected_positions(anchors, wanted, len(reference))
        offsets = np.arange(-self.window, self.window + 1)
        places = np.clip(expected[:, None] + offsets, 0, len(reference) - 1)  # [m, 2w+1]
        similarity = self._similarity(target[wanted], reference, places)
        score = similarity - self.penalty * np.abs(places - expected[:, None]) / self.window
        best = score.argmax(axis=1)
        row = np.arange(len(wanted))
        return places[row, best], similarity[row, best]

    def _similarity(self, ids: Tokens, reference: Tokens, places: Positions) -> NDArray[np.float32]:
        """Cosines between distinct ids, looked up per (token, place): the table is fixed, so n x m is never formed."""
        distinct_targets, t = np.unique(ids, return_inverse=True)
        looked_at = np.zeros(len(reference), bool)
        looked_at[places] = True
        distinct_references, found = np.unique(reference[looked_at], return_inverse=True)
        r = np.zeros(len(reference), np.int64)
        r[looked_at] = found
        return self.table.cosines(distinct_targets, distinct_references)[t[:, None], r[places]]


def expected_positions(anchors: Positions, wanted: Positions, limit: int) -> Positions:
    """Where in a reference of ``limit`` tokens each wanted target position should lie, shape [m]."""
    held = np.flatnonzero(anchors >= 0)
    if not held.size:
        scale = limit / len(anchors)  # nothing known: assume both texts advance evenly
        return np.clip((wanted * scale).astype(np.int64), 0, limit - 1)
    right = np.searchsorted(held, wanted)
    after = held[np.minimum(right, len(held) - 1)]
    before = held[np.maximum(right - 1, 0)]
    gap_target = np.maximum(after - before, 1)
    gap_reference = anchors[after] - anchors[before]
    # anchors that cross or jump belong to different passages: continue the nearer one's diagonal instead
    consistent = (after > before) & (gap_reference > 0) & (gap_reference <= 3 * gap_target + 8)
    between = anchors[before] + np.rint((wanted - before) * gap_reference / gap_target).astype(np.int64)
    nearer = np.where(np.abs(wanted - before) <= np.abs(after - wanted), before, after)
    along = anchors[nearer] + wanted - nearer
    return np.clip(np.where(consistent, between, along), 0, limit - 1)
