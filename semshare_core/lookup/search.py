"""Search: which pooled prompts may be of use, asked of the pool's three indexes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.goal import Goal, Mode
from semshare_core.embed.encoder import Embed
from semshare_core.model.attention.bit_blocks import whole_blocks
from semshare_core.pool.entry import Entry
from semshare_core.pool.pool import ReferencePool
from semshare_core.tokens import Tokens


@dataclass(frozen=True)
class Wanted:
    """What is looked up.

    Attributes:
        namespace: whose entries may serve, beside the public ones.
        tokens: int64 [n], the prompt.
        weights: names what computes rows now (:meth:`semshare_core.model.weights.Weights.identity`); entries of other
            weights are not found.
        block: keys that are only summed together (:mod:`semshare_core.model.attention.bit_blocks`).
    """

    namespace: str
    tokens: Tokens
    weights: str = ""
    block: int = 1

    def prefix_in(self, pool: ReferencePool, goal: Goal) -> tuple[Entry, int] | None:
        """The entry with the longest usable common prefix, and its length. The last token never counts.

        A lossless prefix ends before the last block, whose bits depend on where a prompt ends.
        """
        end = len(self.tokens) - 1
        if goal.mode is Mode.LOSSLESS:
            end = min(end, whole_blocks(len(self.tokens), self.block))
        depth = goal.policy.max_depth if goal.approximates else 0
        return pool.longest_prefix(self.namespace, self.tokens[:end], depth, goal.bound, weights=self.weights)


@dataclass(frozen=True)
class Candidates:
    """Entries that resemble the prompt.

    Attributes:
        embedding: float32 [m, dim] of the prompt, without rows where it could not be embedded.
        similar: by the embeddings, with similarities in [0, 1], the nearest first.
        sharing: by runs of tokens that they have in common with the prompt behind its prefix.
    """

    embedding: NDArray[np.float32]
    similar: list[tuple[Entry, float]]
    sharing: list[Entry]

    @property
    def similarity(self) -> float | None:
        """Of the nearest entry; None: there is none."""
        return self.similar[0][1] if self.similar else None


def search(pool: ReferencePool, wanted: Wanted, embed: Embed, *, behind: int, count: int) -> Candidates:
    """Ask the pool for entries that resemble the prompt.

    Args:
        behind: where the prefix ends; runs are looked for from there on.
        count: at most so many entries are asked for by their runs; 0: none.
    """
    embedding = embed(wanted.tokens)
    similar = pool.similar(wanted.namespace, embedding, weights=wanted.weights)
    rest = wanted.tokens[behind:]
    sharing = pool.sharing(wanted.namespace, rest, count, weights=wanted.weights) if count else []
    return Candidates(embedding, similar, sharing)
