"""The pool: reference prompts of many namespaces within one byte budget, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from semshare_core.config import PoolConfig
from semshare_core.match.plan import Tokens
from semshare_core.match.prefix import common_prefix
from semshare_core.pool.entry import Entry
from semshare_core.pool.prefix_index import PrefixIndex
from semshare_core.pool.run_index import RunIndex
from semshare_core.pool.semantic_index import SemanticIndex
from semshare_core.pool.vector_rows import Vectors


@dataclass(frozen=True)
class PoolStats:
    """What a pool holds and has done."""

    entries: int
    tokens: int
    bytes: int
    max_bytes: int
    evictions: int
    rejected: int


class _Namespace:
    """The indexes of one namespace. They hold nothing of any other, so no query can reach across."""

    def __init__(self, config: PoolConfig) -> None:
        self.prefix = PrefixIndex(config.block_tokens)
        self.runs = RunIndex()
        self.semantic = SemanticIndex()


class ReferencePool:
    """Thread-safe store of :class:`Entry`. Entries handed out stay valid after their eviction."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self._lock = threading.RLock()
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()
        self._namespaces: dict[str, _Namespace] = {}
        self._bytes = 0
        self._evictions = 0
        self._rejected = 0

    def add(self, entry: Entry) -> bool:
        """Keep ``entry``; False if it is too short, larger than the whole budget or already covered.

        An entry that another one continues, at no greater depth, is covered and leaves: the longer one serves for both.
        """
        with self._lock:
            if len(entry) < self.config.min_tokens or entry.n_bytes > self.config.max_bytes:
                self._rejected += 1
                return False
            same = self._entries.get((entry.namespace, entry.id))
            if same is not None:
                if not _covers(entry, same) or _covers(same, entry):
                    self._entries.move_to_end((same.namespace, same.id))
                    return False
                self._remove(same)
            for other in self._related(entry):
                if _covers(other, entry):
                    self._entries.move_to_end((other.namespace, other.id))
                    return False
                if _covers(entry, other):
                    self._remove(other)
            while self._bytes + entry.n_bytes > self.config.max_bytes:
                self._remove(next(iter(self._entries.values())))
                self._evictions += 1
            space = self._namespaces.setdefault(entry.namespace, _Namespace(self.config))
            space.prefix.add(entry.id, entry.tokens)
            space.runs.add(entry.id, entry.lossless)
            space.semantic.add(entry.id, entry.embedding)
            self._entries[entry.namespace, entry.id] = entry
            self._bytes += entry.n_bytes
            return True

    def longest_prefix(self, namespace: str, tokens: Tokens, max_depth: int) -> tuple[Entry, int] | None:
        """The entry with the longest usable common prefix, and its length; None if there is none."""
        with self._lock:
            space = self._namespaces.get(namespace)
            if space is None:
                return None
            found = [(blocks, self._entries[namespace, name]) for name, blocks in space.prefix.agreeing(tokens).items()]
        best: tuple[int, str, Entry] | None = None
        # longest agreement first; its rows may be too deep to use, so go on until no shorter one can serve more
        for blocks, entry in sorted(found, key=lambda pair: -pair[0]):
            if best is not None and -best[0] >= (blocks + 1) * self.config.block_tokens:
                break
            length = entry.usable_prefix(tokens, max_depth)
            if length > 0 and (best is None or (-length, entry.id) < best[:2]):
                best = (-length, entry.id, entry)
        return (best[2], -best[0]) if best else None

    def similar(self, namespace: str, embedding: Vectors) -> list[tuple[Entry, float]]:
        """The namespace's entries nearest to ``embedding``, with similarities in [0, 1], best first."""
        with self._lock:
            space = self._namespaces.get(namespace)
            if space is None:
                return []
            found = space.semantic.search(embedding, self.config.candidates)
            return [(self._entries[namespace, name], similarity) for name, similarity in found]

    def sharing(self, namespace: str, tokens: Tokens, count: int) -> list[Entry]:
        """At most ``count`` entries that together hold most runs of ``tokens`` in rows of depth 0, best first."""
        with self._lock:
            space = self._namespaces.get(namespace)
            if space is None:
                return []
            return [self._entries[namespace, name] for name in space.runs.best(tokens, count)]

    def touch(self, namespace: str, names: tuple[str, ...]) -> None:
        """Mark entries as just used."""
        with self._lock:
            for name in names:
                if (namespace, name) in self._entries:
                    self._entries.move_to_end((namespace, name))

    def discard(self, namespace: str, names: Iterable[str]) -> None:
        """Drop the named entries of ``namespace``; those that are gone already are passed over."""
        with self._lock:
            for name in names:
                if (namespace, name) in self._entries:
                    self._remove(self._entries[namespace, name])

    def clear(self, namespace: str | None = None) -> int:
        """Drop the entries of ``namespace``, or of all namespaces when None; returns how many."""
        with self._lock:
            doomed = [entry for entry in self._entries.values() if namespace in (None, entry.namespace)]
            for entry in doomed:
                self._remove(entry)
            return len(doomed)

    def stats(self, namespace: str | None = None) -> PoolStats:
        """Counts and bytes, of one namespace or of all; evictions and rejections are the whole pool's."""
        with self._lock:
            chosen = [entry for entry in self._entries.values() if namespace in (None, entry.namespace)]
            return PoolStats(
                entries=len(chosen),
                tokens=sum(map(len, chosen)),
                bytes=sum(entry.n_bytes for entry in chosen),
                max_bytes=self.config.max_bytes,
                evictions=self._evictions,
                rejected=self._rejected,
            )

    def _related(self, entry: Entry) -> list[Entry]:
        """Entries of the namespace that may continue ``entry`` or be continued by it."""
        space = self._namespaces.get(entry.namespace)
        if space is None:
            return []
        return [self._entries[entry.namespace, name] for name in space.prefix.agreeing(entry.tokens)]

    def _remove(self, entry: Entry) -> None:
        del self._entries[entry.namespace, entry.id]
        self._bytes -= entry.n_bytes
        space = self._namespaces[entry.namespace]
        space.prefix.remove(entry.id)
        space.runs.remove(entry.id)
        space.semantic.remove(entry.id)
        if not len(space.semantic):
            del self._namespaces[entry.namespace]


def _covers(longer: Entry, shorter: Entry) -> bool:
    """True if ``longer`` begins with ``shorter``'s tokens, no row being deeper."""
    n = len(shorter)
    return (
        len(longer) >= n
        and common_prefix(longer.tokens, shorter.tokens) == n
        and bool((longer.depth[:n] <= shorter.depth).all())
    )
