"""Order-aware fuzzy matching: text keeps its order, so look where the neighbours of a token were found.

Identical runs are anchors. Between two anchors of one reference the expected position of a token is interpolated.
Outside them it continues the nearest anchor's diagonal. Around that position the reference token with the most similar
embedding wins, minus a small penalty for distance. Ours. The alignment idea is old (sentence alignment by anchors,
Kay & Roscheisen 1993); KVShare (arXiv 2503.16525) aligns by edit distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.matchers.base import Candidate, Matcher, PlanRows
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Positions, Tokens

KINDRED_SPAN = 32  # tokens to either side that tell whether a stretch retells another
KINDRED_SHARE = 0.4  # of them have the very token that they are matched to


@MATCHERS.register("ordered")
@dataclass(frozen=True)
class OrderedMatcher(Matcher):
    """Most similar reference token near the position that the anchors imply.

    A *stretch* is a run of wanted tokens without a gap. The candidate whose text surrounds it serves it. Where the
    tokens before and behind it come from two candidates, or from none, the most similar tokens decide, and the order of
    the candidates between equals. What retells nothing stays new, see :func:`_kindred`.

    Attributes:
        window: how far from the expected position a match may lie, in tokens.
        penalty: similarity lost at the window's edge.
    """

    window: int = 24
    penalty: float = 0.3

    def match(self, target: Tokens, wanted: Positions, candidates: Sequence[Candidate]) -> PlanRows:
        rows = PlanRows.none(len(wanted))
        begins = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)  # of stretches, in `wanted`
        stretch = np.cumsum(np.diff(wanted, prepend=-2) > 1) - 1
        near = _surrounding(wanted, begins, candidates)
        near &= self._hopeful(target, wanted, stretch, near, candidates)
        lengths = np.bincount(stretch, minlength=len(begins))
        best = np.full(len(begins), -np.inf)
        same = np.zeros(len(wanted), bool)
        for number, candidate in enumerate(candidates):
            near_places = np.flatnonzero(near[number][stretch])
            position, similarity = self.align(target, wanted[near_places], candidate.tokens, candidate.anchors)
            mean = np.bincount(stretch[near_places], similarity, len(begins)) / lengths
            better = near[number] & (mean > best)
            best[better] = mean[better]
            won = better[stretch[near_places]]
            rows.candidate[near_places[won]], rows.position[near_places[won]] = number, position[won]
            same[near_places[won]] = target[wanted[near_places[won]]] == candidate.tokens[position[won]]
        strange = ~_kindred(same, stretch)
        rows.candidate[strange] = rows.position[strange] = -1
        return rows

    def align(
        self, target: Tokens, wanted: Positions, reference: Tokens, anchors: Positions
    ) -> tuple[Positions, NDArray[np.float32]]:
        """Map target positions ``wanted`` [m] to reference positions [m], with their cosine similarities [m].

        ``anchors`` [n] holds the reference position of every target token already served, -1 elsewhere.
        """
        if not len(wanted) or not len(reference):
            return np.full(len(wanted), -1, np.int64), np.full(len(wanted), -2.0, np.float32)
        expected, places = self._places(wanted, anchors, len(reference))
        similarity = self._similarity(target[wanted], reference, places)
        score = similarity - self.penalty * np.abs(places - expected[:, None]) / self.window
        best = score.argmax(axis=1)
        row = np.arange(len(wanted))
        return places[row, best], similarity[row, best]

    def _places(self, wanted: Positions, anchors: Positions, limit: int) -> tuple[Positions, Positions]:
        """Where in a reference of ``limit`` tokens each wanted token is expected [m], and where to look [m, 2w+1]."""
        expected = expected_positions(anchors, wanted, limit)
        offsets = np.arange(-self.window, self.window + 1)
        return expected, np.clip(expected[:, None] + offsets, 0, limit - 1)

    def _hopeful(
        self,
        target: Tokens,
        wanted: Positions,
        stretch: Positions,
        near: NDArray[np.bool_],
        candidates: Sequence[Candidate],
    ) -> NDArray[np.bool_]:
        """The stretches that may retell something, bool [stretches]: enough of their tokens stand where they would.

        Any two texts share their common words, so a long prompt has thousands of tokens that some place resembles. Most
        stretches retell nothing, and to see that takes no similarity.
        """
        hopeful = np.zeros(near.shape[1], bool)
        for number, candidate in enumerate(candidates):
            if not len(candidate.tokens):
                continue
            close = np.flatnonzero(near[number][stretch])
            _, places = self._places(wanted[close], candidate.anchors, len(candidate.tokens))
            stands = (candidate.tokens[places] == target[wanted[close], None]).any(axis=1)
            hopeful[stretch[close[_kindred(stands, stretch[close])]]] = True
        return hopeful

    def _similarity(self, ids: Tokens, reference: Tokens, places: Positions) -> NDArray[np.float32]:
        """Cosines between distinct ids, looked up per (token, place): the table is fixed, so n x m is never formed."""
        distinct_targets, t = np.unique(ids, return_inverse=True)
        looked_at = np.zeros(len(reference), bool)
        looked_at[places] = True
        distinct_references, found = np.unique(reference[looked_at], return_inverse=True)
        r = np.zeros(len(reference), np.int64)
        r[looked_at] = found
        return self.table.cosines_at(distinct_targets, distinct_references, t[:, None], r[places])


def expected_positions(anchors: Positions, wanted: Positions, limit: int) -> Positions:
    """Where in a reference of ``limit`` tokens each wanted target position should lie, shape [m]."""
    anchored = np.flatnonzero(anchors >= 0)
    if not anchored.size:
        scale = limit / len(anchors)  # nothing known: assume both texts advance evenly
        return np.clip((wanted * scale).astype(np.int64), 0, limit - 1)
    right = np.searchsorted(anchored, wanted)
    after = anchored[np.minimum(right, len(anchored) - 1)]
    before = anchored[np.maximum(right - 1, 0)]
    gap_target = np.maximum(after - before, 1)
    gap_reference = anchors[after] - anchors[before]
    # anchors that cross or jump belong to different passages: continue the nearer one's diagonal instead
    consistent = (after > before) & (gap_reference > 0) & (gap_reference <= 3 * gap_target + 8)
    between = anchors[before] + np.rint((wanted - before) * gap_reference / gap_target).astype(np.int64)
    nearer = np.where(np.abs(wanted - before) <= np.abs(after - wanted), before, after)
    along = anchors[nearer] + wanted - nearer
    return np.clip(np.where(consistent, between, along), 0, limit - 1)


def _kindred(same: NDArray[np.bool_], stretch: Positions) -> NDArray[np.bool_]:
    """Which tokens [m] retell the text they are matched to: of those around them in their stretch enough are the same.

    Any text has a partner for every token; of unrelated ones every sixth token is the same in the median stretch, of
    two translations two in three. Rows of unrelated text mislead. Stretches too short to tell are edits, and stay.
    """
    begins = np.searchsorted(stretch, stretch)
    ends = np.searchsorted(stretch, stretch, side="right")
    places = np.arange(len(same))
    low, high = np.maximum(begins, places - KINDRED_SPAN), np.minimum(ends, places + KINDRED_SPAN + 1)
    total = np.concatenate(([0], np.cumsum(same)))
    share = (total[high] - total[low]) / np.maximum(high - low, 1)
    kindred: NDArray[np.bool_] = (share >= KINDRED_SHARE) | (ends - begins < KINDRED_SPAN // 2)
    return kindred


def _surrounding(wanted: Positions, begins: Positions, candidates: Sequence[Candidate]) -> NDArray[np.bool_]:
    """Which candidate may serve which stretch, bool [candidates, stretches]: those beside it or, without any, all."""
    ends = np.append(begins[1:], len(wanted)) - 1
    near = np.zeros((len(candidates), len(begins)), bool)
    for number, candidate in enumerate(candidates):
        serves = np.concatenate(([False], candidate.anchors >= 0, [False]))
        near[number] = serves[wanted[begins]] | serves[wanted[ends] + 2]
    return near | ~near.any(axis=0)
