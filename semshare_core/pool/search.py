"""Looking up: which entries could serve a prompt."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from semshare_core.config import PoolConfig
from semshare_core.pool.entries import Entries
from semshare_core.pool.entry import Entry
from semshare_core.pool.indexes.vector_rows import Vectors
from semshare_core.pool.namespace_store import Indexes
from semshare_core.tokens import Tokens


class Search:
    """Look-ups take no lock that is held while rows are copied, moved or written. What they return can be used whatever
    becomes of it in the pool meanwhile."""

    config: PoolConfig
    _entries: Entries

    def longest_prefix(
        self, namespace: str, tokens: Tokens, most: float, *, weights: str = ""
    ) -> tuple[Entry, int] | None:
        """The entry with the longest common prefix that is :meth:`Entry.usable`, and its length; None if none is.

        Args:
            most: the largest account, in nats, of rows that may serve; 0: only lossless rows.

        Like every look-up it finds only what the ``weights`` that are named computed.
        """
        return self._longest_prefix(self._readable(namespace, weights), tokens, most)

    def _longest_prefix(self, indexes: Iterable[Indexes], tokens: Tokens, most: float) -> tuple[Entry, int] | None:
        best: tuple[tuple[int, float], Entry] | None = None  # of equally long ones the least approximate
        for each in indexes:
            for name in each.prefix.nearest(tokens, most):
                entry = self._live(each, name)
                length = entry.usable_prefix(tokens, most) if entry is not None else 0
                if entry is None or length == 0:
                    continue
                key = (-length, entry.account if length > entry.usable(0.0) else 0.0)
                if best is None or key < best[0]:
                    best = key, entry
                break
        return (best[1], -best[0][0]) if best else None

    def similar(self, namespace: str, embedding: Vectors, *, weights: str = "") -> list[tuple[Entry, float]]:
        """The entries most like ``embedding`` [m, dim] that serve the namespace, with similarities in [0, 1]."""
        found = []
        for each in self._readable(namespace, weights) if len(embedding) else ():
            names = each.semantic.search(embedding, self.config.candidates)
            found += [(entry, value) for name, value in names if (entry := self._live(each, name)) is not None]
        return sorted(found, key=lambda item: (-item[1], item[0].id))[: self.config.candidates]

    def sharing(self, namespace: str, tokens: Tokens, count: int, *, weights: str = "") -> list[Entry]:
        """Entries, at most ``count`` of each namespace, that hold most runs of ``tokens`` in lossless rows, and as many
        that hold most of them in any rows, if some are approximate."""
        found = []
        for each in self._readable(namespace, weights):
            names = dict.fromkeys(each.runs.best(tokens, count) + each.approximate_runs.best(tokens, count))
            found += [entry for name in names if (entry := self._live(each, name)) is not None]
        return found

    def beginning_alike(self, namespace: str, tokens: Tokens, count: int, *, weights: str = "") -> list[Entry]:
        """Entries, at most ``count`` of each namespace, that begin as ``tokens`` do, usable or not.

        Those that agree longest come first.
        """
        found = []
        for each in self._readable(namespace, weights):
            names = each.prefix.alike(tokens, count)
            found += [entry for name in names if (entry := self._live(each, name)) is not None]
        return found

    def holds(self, namespace: str, *, weights: str | None = None) -> bool:
        """Whether any entry could serve the namespace: of the ``weights``, or of whatever weights."""
        if weights is not None:
            return any(each.entries for each in self._readable(namespace, weights))
        return not self._entries.namespaces.keys().isdisjoint({namespace, self.config.public_namespace})

    def _readable(self, namespace: str, weights: str) -> Iterator[Indexes]:
        """The indexes that serve ``namespace``: its own and the public one's."""
        for name in dict.fromkeys((namespace, self.config.public_namespace)):
            store = self._entries.namespaces.get(name) if name is not None else None
            indexes = store.of(weights) if store is not None else None
            if indexes is not None:
                yield indexes

    def _live(self, indexes: Indexes, name: str) -> Entry | None:
        entry = indexes.entries.get(name)  # None: it left since the index was read
        return None if entry is None or entry.expired(time.time()) else entry
