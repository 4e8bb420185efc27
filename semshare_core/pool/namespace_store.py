"""One namespace of the pool: its entries, their indexes, its bytes. It holds nothing of any other."""

from __future__ import annotations

from semshare_core.config import PoolConfig
from semshare_core.pool.entry import Entry
from semshare_core.pool.eviction import EvictionQueue
from semshare_core.pool.indexes.prefix_index import PrefixIndex
from semshare_core.pool.indexes.run_index import RunIndex
from semshare_core.pool.indexes.semantic_index import SemanticIndex


class Indexes:
    """The indexes of one namespace's entries of the same weights, so that no query can find rows that others computed.

    ``entries`` and the indexes of tokens are read without a lock; that of embeddings has a lock of its own.

    Attributes:
        runs: of lossless rows; ``approximate_runs``: of whole entries that have approximate rows.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.entries: dict[str, Entry] = {}
        self.prefix = PrefixIndex(config.block_tokens)
        self.runs = RunIndex()
        self.approximate_runs = RunIndex()
        self.semantic = SemanticIndex()

    def add(self, entry: Entry) -> None:
        """Make an entry findable; needs the pool's lock, as does :meth:`remove`."""
        self.entries[entry.id] = entry
        self.prefix.put(entry.id, entry.tokens, entry.beginnings)
        self.runs.add(entry.id, entry.lossless)
        if entry.account:
            self.approximate_runs.add(entry.id, entry.tokens)
        if len(entry.embedding):
            self.semantic.add(entry.id, entry.embedding)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.id]
        self.prefix.remove(entry.id)
        self.runs.remove(entry.id)
        if entry.id in self.approximate_runs:
            self.approximate_runs.remove(entry.id)
        if len(entry.embedding):
            self.semantic.remove(entry.id)

    def find_lossless(self, entry: Entry) -> None:
        """Have its beginning and its runs found as far as its rows are lossless now."""
        self.prefix.put(entry.id, entry.tokens, entry.beginnings)
        self.runs.remove(entry.id)
        self.runs.add(entry.id, entry.lossless)
        if entry.id in self.approximate_runs:  # or its name would stay there when it leaves, and crowd out others
            self.approximate_runs.remove(entry.id)


class NamespaceStore:
    """All entries of a namespace, whatever weights computed them, within one budget. Changing it needs the pool's lock.

    Attributes:
        queue: its segments, in the order in which they leave when the namespace has no room.
        n_bytes: of its segments.
    """

    def __init__(self, config: PoolConfig) -> None:
        self.entries: dict[str, Entry] = {}
        self.queue = EvictionQueue(lambda segment: bool(segment.holders))
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

    def find_lossless(self, entry: Entry) -> None:
        """An entry's rows have become lossless."""
        self._indexes[entry.weights].find_lossless(entry)

    def remove(self, entry: Entry) -> None:
        del self.entries[entry.id]
        self._indexes[entry.weights].remove(entry)
        if not self._indexes[entry.weights].entries:
            del self._indexes[entry.weights]
