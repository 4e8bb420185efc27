"""One namespace of the pool: its indexes, its queue and its books. They hold nothing of any other.

Each weights' entries have indexes of their own, so that no query finds rows that others computed. The budget is one.
"""

from __future__ import annotations

from semshare_core.config import PoolConfig
from semshare_core.pool.entry import Entry
from semshare_core.pool.prefix_index import PrefixIndex
from semshare_core.pool.run_index import RunIndex
from semshare_core.pool.semantic_index import SemanticIndex
from semshare_core.pool.worth import Queue


class Indexes:
    """The indexes of one namespace's entries of the same weights, so that no query can reach across.

    ``entries`` and the two indexes of tokens are read without a lock; the third has a lock of its own.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.entries: dict[str, Entry] = {}
        self.prefix = PrefixIndex(config.block_tokens)
        self.runs = RunIndex()
        self.semantic = SemanticIndex()

    def add(self, entry: Entry) -> None:
        """Make an entry findable; needs the pool's lock, as does :meth:`remove`."""
        self.entries[entry.id] = entry
        self.prefix.add(entry.id, entry.tokens)
        self.runs.add(entry.id, entry.lossless)
        if len(entry.embedding):
            self.semantic.add(entry.id, entry.embedding)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.id]
        self.prefix.remove(entry.id)
        self.runs.remove(entry.id)
        if len(entry.embedding):
            self.semantic.remove(entry.id)


class Space:
    """What a namespace has: all its entries, and the indexes of each weights'. Adding and removing needs the lock."""

    def __init__(self, config: PoolConfig) -> None:
        self.entries: dict[str, Entry] = {}
        self.queue = Queue(lambda segment: bool(segment.holders))
        self.n_bytes = 0
        self._config = config
        self._indexes: dict[str, Indexes] = {}

    def of(self, weights: str) -> Indexes | None:
        """The indexes of entries of some weights; None: there are no entries."""
        return self._indexes.get(weights)

    def add(self, entry: Entry) -> None:
        self.entries[entry.id] = entry
        if entry.weights not in self._indexes:
            self._indexes[entry.weights] = Indexes(self._config)
        self._indexes[entry.weights].add(entry)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.id]
        self._indexes[entry.weights].remove(entry)
        if not self._indexes[entry.weights].entries:
            del self._indexes[entry.weights]
