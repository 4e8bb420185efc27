"""SemShareKV's fuzzy matching: LSH over RoPE'd token embeddings (arXiv 2509.24832, fuzzy token matching).

The paper rotates the token embeddings of both prompts by their positions (without it many tokens fall onto the first
reference tokens), hashes the reference rows and takes the nearest neighbour of every target row; many-to-one allowed.
Here the hash stage runs between *distinct* token ids, because embeddings are a fixed table: sign-projection codes
(``faiss.IndexLSH``) give each target id its nearest reference ids. Of the occurrences of those ids the nearest before
and after the target position compete by the inner product of the RoPE'd embeddings, which falls with distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.matchers.base import Candidate, Matcher, PlanRows
from semshare_core.process.faiss_import import import_faiss
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Positions, Tokens

_ROPE_BASE = 10_000.0


@MATCHERS.register("lsh")
@dataclass(frozen=True)
class LshMatcher(Matcher):
    """Nearest token of the most similar prompt by RoPE'd embedding, for everything behind the prefix.

    Attributes:
        bits: sign projections per code.
        neighbours: distinct reference ids that survive the hash stage, per distinct target id.
    """

    max_partners = 1
    after_runs = False
    bits: int = 256
    neighbours: int = 4

    def match(self, target: Tokens, wanted: Positions, candidates: Sequence[Candidate]) -> PlanRows:
        position = self.nearest(target, wanted, candidates[0].tokens)
        return PlanRows(np.zeros(len(wanted), np.int64), position)

    def nearest(self, target: Tokens, wanted: Positions, reference: Tokens) -> Positions:
        """Positions [m] in ``reference`` for the target's tokens at ``wanted`` [m]."""
        places = self._places(target[wanted], wanted, reference)
        scores = self._rope_scores(target[wanted], wanted, reference, places)
        return places[np.arange(len(wanted)), scores.argmax(axis=1)]

    def _places(self, ids: Tokens, wanted: Positions, reference: Tokens) -> Positions:
        """Reference positions [m, 2 * neighbours]: per surviving id its nearest occurrence on either side."""
        distinct_targets, inverse = np.unique(ids, return_inverse=True)
        distinct_references = np.unique(reference)
        near = self._nearest_ids(distinct_targets, distinct_references)[inverse]  # [m, c] token ids
        by_id = np.argsort(reference, kind="stable")
        # occurrences of one id are contiguous in `by_id` and ascending in position: search (id, position) pairs
        key = reference[by_id] * (len(reference) + 1) + by_id
        at = np.searchsorted(key, near * (len(reference) + 1) + np.minimum(wanted, len(reference))[:, None])
        after, before = by_id[np.minimum(at, len(by_id) - 1)], by_id[np.maximum(at - 1, 0)]
        # where an id has no occurrence on one side, the one on the other stands twice
        sides = [
            np.where(reference[after] == near, after, before),
            np.where(reference[before] == near, before, after),
        ]
        return np.concatenate(sides, axis=1)

    def _nearest_ids(self, targets: Tokens, references: Tokens) -> Tokens:
        """The nearest distinct reference ids [len(targets), c] by Hamming distance of sign-projection codes."""
        index = import_faiss().IndexLSH(self.table.dim, self.bits)
        index.add(self.table.unit(references))
        _, found = index.search(self.table.unit(targets), min(self.neighbours, len(references)))
        return references[found]

    def _rope_scores(self, ids: Tokens, wanted: Positions, reference: Tokens, places: Positions) -> NDArray[np.float32]:
        """Inner products of RoPE'd embeddings [m, 2c]; one rotation by the distance does for both sides."""
        half = self.table.dim // 2
        frequency = (_ROPE_BASE ** (-np.arange(half, dtype=np.float32) / half)).astype(np.float32)
        scores = np.empty(places.shape, np.float32)
        query = self.table.unit(ids)
        for column in range(places.shape[1]):
            rows = self.table.unit(reference[places[:, column]])
            angle = (places[:, column] - wanted).astype(np.float32)[:, None] * frequency
            along = query[:, :half] * rows[:, :half] + query[:, half:] * rows[:, half:]
            across = query[:, half:] * rows[:, :half] - query[:, :half] * rows[:, half:]
            scores[:, column] = (along * np.cos(angle) + across * np.sin(angle)).sum(axis=1)
        return scores
