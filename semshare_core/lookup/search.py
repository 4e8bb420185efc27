"""Search: ask the pool's three indexes for prompts that may serve."""

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
class Query:
    """A prompt to look up.

    Attributes:
        namespace: its entries may serve, and the public ones.
        tokens: int64 [n], the prompt.
        weights: the identity of the present weights (:meth:`semshare_core.model.weights.Weights.identity`). Entries of
            other weights do not serve.
        block: the number of keys that attention sums together (:mod:`semshare_core.model.attention.bit_blocks`).
    """

    namespace: str
    tokens: Tokens
    weights: str = ""
    block: int = 1

    def prefix_in(self, pool: ReferencePool, goal: Goal, most: float) -> tuple[Entry, int] | None:
        """The entry with the longest usable common prefix, and the prefix's length. The last token never counts.

        ``most`` is the largest account, in nats, of rows that may serve as they are. The prefix of a lossless goal ends
        before the last block, because that block's bits depend on where a prompt ends.
        """
        end = len(self.tokens) - 1
        if goal.mode is Mode.LOSSLESS:
            end = min(end, whole_blocks(len(self.tokens), self.block))
        return pool.longest_prefix(self.namespace, self.tokens[:end], most, weights=self.weights)


@dataclass(frozen=True)
class Candidates:
    """Entries that resemble the prompt.

    Attributes:
        embedding: the prompt's, float32 [m, dim]. It has no rows if the prompt could not be embedded.
        similar: entries with similar embeddings, and the similarities in [0, 1]; the nearest first.
        sharing: entries that have identical runs with the prompt's suffix.
    """

    embedding: NDArray[np.float32]
    similar: list[tuple[Entry, float]]
    sharing: list[Entry]

    @property
    def similarity(self) -> float | None:
        """The nearest entry's similarity; None if there is no entry."""
        return self.similar[0][1] if self.similar else None


def search(pool: ReferencePool, query: Query, embed: Embed, *, prefix_length: int, count: int) -> Candidates:
    """Ask the pool for entries that resemble the prompt.

    Args:
        prefix_length: the search for runs begins after the prefix.
        count: the largest number of entries with identical runs; 0 skips that search.
    """
    embedding = embed(query.tokens)
    similar = pool.similar(query.namespace, embedding, weights=query.weights)
    suffix = query.tokens[prefix_length:]
    sharing = pool.sharing(query.namespace, suffix, count, weights=query.weights) if count else []
    return Candidates(embedding, similar, sharing)
