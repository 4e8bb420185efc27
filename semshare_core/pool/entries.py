"""Which entries are in the pool: who holds which segment, who is pinned, who expires when, what each namespace lost."""

from __future__ import annotations

import heapq
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from semshare_core.config import PoolConfig
from semshare_core.pool.entry import Entry
from semshare_core.pool.eviction import EvictionPolicy
from semshare_core.pool.namespace_store import NamespaceStore
from semshare_core.pool.segment import Segment
from semshare_core.pool.tiers import Tiers
from semshare_core.tokens import common_prefix

_FOLLOWED = 64  # of the entries that begin as a new one does so many are compared with it
_STALE = 4  # the heap is rebuilt when it holds so many times more than there are entries

Forget = Callable[[Entry, list[Segment]], None]


@dataclass
class Counts:
    """What became of a namespace's prompts."""

    evictions: int = 0
    rejected: int = 0
    healed: int = 0
    healed_tokens: int = 0


class Entries:
    """Every method needs the pool's lock; the dicts of a namespace's store may be read without.

    Tiers and disk writer know the entries, so these know them weakly: without a cycle a pool that is dropped leaves
    memory at once, and not when the garbage collector comes by.
    """

    def __init__(self, config: PoolConfig, policy: EvictionPolicy) -> None:
        self.namespaces: dict[str, NamespaceStore] = {}
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self._forget: weakref.WeakMethod[Forget] | None = None
        self._give_up: weakref.WeakMethod[Callable[[Entry], None]] | None = None
        self._config = config
        self._policy = policy
        self._pinned: set[Entry] = set()
        self._due: list[tuple[float, str, str]] = []  # a heap; void where an entry has left or expires at another time
        self._tiers: Tiers

    def attach(self, tiers: Tiers) -> None:
        """Where the bytes of segments are counted."""
        self._tiers = weakref.proxy(tiers)

    def on_leaving(self, forget: Forget | None) -> None:
        """What is told of every entry that leaves, with the segments on disk that nobody holds any more."""
        self._forget = None if forget is None else weakref.WeakMethod(forget)

    def on_removal(self, give_up: Callable[[Entry], None]) -> None:
        """Call ``give_up`` with every entry that is removed."""
        self._give_up = weakref.WeakMethod(give_up)

    def get(self, namespace: str, name: str) -> Entry | None:
        store = self.namespaces.get(namespace)
        return store.entries.get(name) if store is not None else None

    def chosen(self, namespace: str | None) -> Iterator[Entry]:
        """The entries of one namespace, or of all."""
        for name, store in self.namespaces.items():
            if namespace in (None, name):
                yield from store.entries.values()

    def insert(self, entry: Entry) -> None:
        """Enter an entry whose segments are counted already."""
        store = self.namespaces.get(entry.namespace)
        if store is None:
            store = self.namespaces[entry.namespace] = NamespaceStore(self._config)
        for segment in entry.segments:
            if not segment.holders:
                store.n_bytes += segment.n_bytes
            segment.holders.add(entry.id)
        store.add(entry)
        if entry.pinned:
            self.pin(entry)
        self.value(entry)
        self.remember_expiry(entry)

    def remove(self, entry: Entry) -> None:
        store = self.namespaces[entry.namespace]
        store.remove(entry)
        self._pinned.discard(entry)
        give_up = self._give_up() if self._give_up is not None else None
        if give_up is not None:
            give_up(entry)
        released = self._release(entry, entry.segments)
        if not store.entries:
            del self.namespaces[entry.namespace]
        forget = self._forget() if self._forget is not None else None
        if forget is not None:
            forget(entry, released)

    def _release(self, entry: Entry, segments: Iterable[Segment]) -> list[Segment]:
        """Take segments from an entry; returns those that nobody holds any more and whose files are to be removed."""
        store = self.namespaces[entry.namespace]
        released = []
        for segment in segments:
            segment.holders.discard(entry.id)
            if not segment.holders:
                store.n_bytes -= segment.n_bytes
                if self._tiers.leave(segment):
                    released.append(segment)
            elif segment.pinned:
                segment.pinned = any(segment in other.segments for other in self._pinned)
                self._push(segment)
        return released

    def heal(self, entry: Entry, kept: Sequence[Segment], own: Segment, steady: int | None) -> list[Segment]:
        """Let ``kept``, its leading segments, and ``own`` be the rows of an entry, all of them lossless.

        Returns:
            The segments whose files are to be removed.
        """
        store = self.namespaces[entry.namespace]
        replaced = entry.segments[len(kept) :]
        approximate = len(entry) - len(entry.lossless)
        own.uses = max(segment.uses for segment in replaced)
        own.holders.add(entry.id)
        own.pinned = entry.pinned
        store.n_bytes += own.n_bytes
        self._tiers.enter(own, "device")
        entry.become_lossless((*kept, own), steady)
        released = self._release(entry, replaced)
        store.find_lossless(entry)
        self.value(entry)
        counts = self.counts[entry.namespace]
        counts.healed, counts.healed_tokens = counts.healed + 1, counts.healed_tokens + approximate
        return released

    def evict(self, segment: Segment) -> None:
        """A segment must go, and with it every entry that needs it."""
        for name in list(segment.holders):
            entry = self.get(segment.namespace, name)
            assert entry is not None, "holders are in the pool"
            self.counts[segment.namespace].evictions += 1
            self.remove(entry)

    def replace(self, old: Segment, parts: tuple[Segment, Segment]) -> list[Entry]:
        """Let two segments stand where one stood, in all entries that hold it; returns those."""
        holders = [self.namespaces[old.namespace].entries[name] for name in old.holders]
        tier = old.tier
        self._tiers.leave(old)
        for part in parts:
            part.holders, part.pinned = set(old.holders), old.pinned
            self._tiers.enter(part, tier)
        old.holders.clear()
        for entry in holders:
            at = entry.segments.index(old)
            entry.segments = (*entry.segments[:at], *parts, *entry.segments[at + 1 :])
        self._policy.value(parts)
        for part in reversed(parts):
            part.value = max(part.value, old.value)
            self._push(part)
        return holders

    def use(self, entry: Entry) -> None:
        """An entry has served a call."""
        for segment in entry.segments:
            segment.uses += 1
        self.value(entry)

    def value(self, entry: Entry) -> None:
        """Value an entry's segments as of now."""
        self._policy.value(entry.segments)
        for segment in reversed(entry.segments):  # of equal ones the beginning goes last
            self._push(segment)

    def pin(self, entry: Entry) -> None:
        entry.pinned = True
        self._pinned.add(entry)
        for segment in entry.segments:
            segment.pinned = True

    def pinned_segments(self, namespace: str | None = None) -> set[Segment]:
        """Segments that must stay, of one namespace or of all."""
        pinned = (entry for entry in self._pinned if namespace in (None, entry.namespace))
        return {segment for entry in pinned for segment in entry.segments}

    def expiry(self, entry: Entry) -> float | None:
        """When an entry that is stored now is no longer used."""
        lifetime = self._config.ttl_seconds
        return None if lifetime is None or entry.pinned else time.time() + lifetime

    def remember_expiry(self, entry: Entry) -> None:
        if entry.expires is not None:
            heapq.heappush(self._due, (entry.expires, entry.namespace, entry.id))
        if len(self._due) > max(64, _STALE * sum(len(store.entries) for store in self.namespaces.values())):
            self._due = [(e.expires, e.namespace, e.id) for e in self.chosen(None) if e.expires is not None]
            heapq.heapify(self._due)

    def drop_expired(self) -> float | None:
        """Remove what is due; the seconds until something is, or None."""
        while self._due:
            due, namespace, name = self._due[0]
            entry = self.get(namespace, name)
            if entry is not None and entry.expires == due:
                left = due - time.time()
                if left > 0:
                    return left
                self.remove(entry)
            heapq.heappop(self._due)
        return None

    def related(self, entry: Entry) -> tuple[Entry | None, list[Entry]]:
        """The entry that covers ``entry``, if any, and those that it covers."""
        store = self.namespaces.get(entry.namespace)
        same_weights = store.of(entry.weights) if store is not None else None
        if same_weights is None:
            return None, []
        covered = []
        same = same_weights.entries.get(entry.id)
        if same is not None:
            if not _covers(entry, same) or _covers(same, entry):
                return same, []
            entry.pinned |= same.pinned
            covered.append(same)
        for name in same_weights.prefix.alike(entry.tokens, _FOLLOWED):
            other = same_weights.entries[name]
            if other is same:
                continue
            if _covers(other, entry) and not entry.pinned:
                return other, []
            if _covers(entry, other) and not other.pinned:
                covered.append(other)
        return None, covered

    def _push(self, segment: Segment) -> None:
        self._tiers.push(segment)
        store = self.namespaces.get(segment.namespace)
        if store is not None:
            store.queue.push(segment)


def _covers(longer: Entry, shorter: Entry) -> bool:
    """Whether ``longer`` begins with the tokens of ``shorter``, in rows as lossless and of no larger account."""
    n = len(shorter)
    return (
        len(longer) >= n
        and common_prefix(longer.tokens, shorter.tokens) == n
        and bool((longer.approximate[:n] <= shorter.approximate).all())
        and (longer.account <= shorter.account or not longer.approximate[:n].any())
        and (longer.steady is None or longer.steady >= min(n, shorter.steady or 0))
    )
