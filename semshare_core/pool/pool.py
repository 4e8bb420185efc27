"""The pool: reference prompts of many namespaces, found by prefix, by runs and by similarity."""

from __future__ import annotations

import math
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch

from semshare_core.config import PoolConfig
from semshare_core.errors import DamagedFileError, NotPicklableError, PoolWarning
from semshare_core.pool.books import Books
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.entry import Entry, View
from semshare_core.pool.keeper import Keeper
from semshare_core.pool.saving import Saving, restored
from semshare_core.pool.segment import Segment
from semshare_core.pool.sharing import divided, own_rows, reaching
from semshare_core.pool.space import Indexes
from semshare_core.pool.storage import Storage
from semshare_core.pool.vector_rows import Vectors
from semshare_core.pool.worth import Worth
from semshare_core.process import forking
from semshare_core.tokens import Tokens

_ATTENTION_EQUALS = 8192.0  # tokens; see Worth
_LONGEST_WAIT = 60.0  # seconds; the clock that says what is due may be set, and runs on while the machine sleeps


@dataclass(frozen=True)
class PoolStats:
    """What a pool, or one namespace of it, holds and has done.

    Attributes:
        bytes: of keys and values in memory; ``device_bytes`` and ``host_bytes`` are its parts.
        disk_bytes: of keys and values on disk, copies of the above and what memory has no room for.
        evictions: entries that had to leave for want of room.
        rejected: entries that were too short or too large to be kept.
    """

    entries: int
    tokens: int
    bytes: int
    max_bytes: int
    evictions: int
    rejected: int
    device_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0


class ReferencePool:
    """Thread-safe store of :class:`Entry`.

    Look-ups take no lock that is held while rows are copied, moved or written. What they return can be used whatever
    becomes of it in the pool meanwhile.

    Args:
        config: budgets and limits.
        folder: where entries survive the process; the pool owns it from now on.
        embed: makes the embeddings of the folder's entries anew, from tokens [n] to [m, dim]; None: they are good.
        devices: where each layer of the model computes; empty: wherever rows lie.
        attention_equals: position at which a token's attention costs as much as the model's weights.
    """

    def __init__(
        self,
        config: PoolConfig,
        *,
        folder: PoolFolder | None = None,
        embed: Callable[[Tokens], Vectors] | None = None,
        devices: Sequence[torch.device] = (),
        attention_equals: float = _ATTENTION_EQUALS,
    ) -> None:
        self.config = config
        self._lock = forking.whole(threading.RLock())
        self._devices = devices
        self._attention_equals = attention_equals
        self._saving: Saving | None = None
        self._owner_elsewhere = False
        self._begin(folder)
        if folder is not None and not folder.read_only:
            self._saving = Saving(folder, self._storage, self._keeper, self._lock)
            self._books.tell(self._saving)
        if folder is not None:
            self._restore(folder, embed)
        forking.renewed(self._after_fork)

    def _begin(self, folder: PoolFolder | None) -> None:
        """With nothing in it."""
        config = self.config
        self._folder = folder
        worth = Worth(self._attention_equals)
        self._books = Books(config, worth)
        self._storage = Storage(config, self._lock, worth, self._books.evict, folder=folder, devices=self._devices)
        self._books.know(self._storage)
        self._keeper = Keeper(partial(_drop_expired, weakref.ref(self)))

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError(
            "a pool cannot be pickled or copied. To take its entries elsewhere give it a folder, PoolConfig(path=...), "
            "and use `semshare pool export`."
        )

    def _after_fork(self) -> None:
        """In a forked child the folder is the parent's. What a thread of the parent was in the middle of is dropped."""
        self._owner_elsewhere |= self._saving is not None
        self._saving = None
        self._books.tell(None)
        if forking.torn(self._lock) or forking.torn(self._storage.making_room):
            self._begin(None)

    def add(self, entry: Entry, *, copy: bool = False) -> bool:
        """Keep ``entry``, made by :meth:`Entry.of_rows`; False if it is too short, too large or already covered.

        What it begins with, if another entry holds the same lossless rows, is shared; of the rest a copy is kept if
        ``copy`` says so or its rows are views of a larger buffer. An entry that this one continues, at no greater
        depth and under no laxer bound, is covered and leaves: the longer one serves for both.
        """
        try:
            return self._add(entry, copy=copy)
        except torch.OutOfMemoryError as error:  # the budget is larger than what the device has left
            told = f"A prompt is not kept: {error} Give the pool a smaller max_bytes."
            warnings.warn(told, PoolWarning, stacklevel=2)
            return self._reject(entry)

    def _add(self, entry: Entry, *, copy: bool) -> bool:
        with self._storage.making_room:
            with self._lock:
                self._books.drop_expired()
                if len(entry) < self.config.min_tokens:
                    return self._reject(entry)
                covering, covered = self._books.related(entry)
                if covering is not None:
                    self._renew(covering, pinned=entry.pinned)
                    return False
            # the same text in better rows replaces it: entries of one name cannot both hold a segment
            shared = [] if any(other.id == entry.id for other in covered) else self._shared(entry)
            start = shared[-1].end if shared else 0
            if not self._fits(entry, start, shared):
                return self._reject(entry)
            own = own_rows(entry, start, copy=copy)
            with self._lock:
                if not all(segment.holders for segment in shared):  # cleared meanwhile
                    return self._reject(entry)
                if own is not None:
                    self._storage.enter(own, "device")
                entry.segments = (*shared, own) if own is not None else tuple(shared)
                entry.expires = self._books.expiry(entry)
                for other in covered:
                    if other.id == entry.id and self._books.get(other.namespace, other.id) is other:
                        self._books.remove(other)
                self._books.insert(entry)
                for other in covered:
                    if self._books.get(other.namespace, other.id) is other:
                        self._books.remove(other)
            if (saving := self._saving) is not None:  # another thread may close the pool
                saving.save(entry)
            elif self._owner_elsewhere:
                self._owner_elsewhere = False
                warnings.warn(
                    "This process was forked from the one that owns the pool's folder: what it adds stays in memory. "
                    "For a folder of its own, make the engine in this process.",
                    PoolWarning,
                    stacklevel=2,
                )
            if entry.expires is not None:
                self._keeper.wake()
            return True

    def _shared(self, entry: Entry) -> list[Segment]:
        """Segments of other entries that hold the lossless beginning of ``entry``, divided where it parts from them."""
        space = self._books.spaces.get(entry.namespace)
        indexes = space.of(entry.weights) if space is not None else None
        partner = self._longest_prefix([indexes], entry.lossless, 0) if indexes is not None else None
        if partner is None:
            return []
        whole, crossing = reaching(*partner)
        if crossing is None or partner[1] - crossing.start < self.config.block_tokens:
            return whole
        with self._lock:
            stay = {*whole, crossing, *self._books.held()}
        try:
            parts = divided(crossing, partner[1], self._storage, stay)
        except DamagedFileError as error:
            warnings.warn(f"{error} The entry is left out.", PoolWarning, stacklevel=2)
            with self._lock:
                self._books.evict(crossing)
            return []
        if parts is None:
            return whole
        with self._lock:
            if not crossing.holders:
                return []
            holders = self._books.replace(crossing, parts)
        if (saving := self._saving) is not None:
            saving.replace(crossing, holders)
        return [*whole, parts[0]]

    def _fits(self, entry: Entry, start: int, shared: Sequence[Segment]) -> bool:
        """Make room for the rows of ``entry`` from token ``start`` on, in its namespace's budget and on the device."""
        need = entry.segments[0].n_bytes // len(entry) * (len(entry) - start)
        quota = self.config.namespace_bytes
        with self._lock:
            if quota is not None:
                space = self._books.spaces.get(entry.namespace)
                stay = {*shared, *self._books.held(entry.namespace)}
                if need + sum(segment.n_bytes for segment in stay) > quota:
                    return False
                while space is not None and space.n_bytes + need > quota:
                    victim = space.queue.least(stay)
                    if victim is None:
                        return False
                    self._books.evict(victim)
            pinned = self._books.held()
        return self._storage.make_room("device", need, shared, pinned)

    def _renew(self, entry: Entry, *, pinned: bool) -> None:
        """An entry whose text came again."""
        if pinned:
            self._books.pin(entry)
        self._books.use(entry)
        entry.expires = self._books.expiry(entry)
        self._books.remember_expiry(entry)
        if entry.expires is not None:
            self._keeper.wake()

    def _reject(self, entry: Entry) -> bool:
        with self._lock:
            self._books.counts[entry.namespace].rejected += 1
        return False

    def unembedded(self, entry: Entry) -> Entry | None:
        """The entry of the same text, if it is there and was kept while it could not be embedded."""
        with self._lock:
            same = self._books.get(entry.namespace, entry.id)
        return same if same is not None and not len(same.embedding) else None

    def embed(self, entry: Entry, vectors: Vectors) -> bool:
        """Make an entry that was added without vectors findable by its likeness; False if it has left meanwhile."""
        with self._lock:
            if self._books.get(entry.namespace, entry.id) is not entry or len(entry.embedding) or not len(vectors):
                return False
            indexes = self._books.spaces[entry.namespace].of(entry.weights)
            assert indexes is not None, "it is in the pool"
            indexes.semantic.add(entry.id, vectors)
            entry.embedding = vectors
        if (saving := self._saving) is not None:
            saving.save(entry)
        return True

    def _restore(self, folder: PoolFolder, embed: Callable[[Tokens], Vectors] | None) -> None:
        entries = list(restored(folder, embed))
        with self._lock:
            for entry in entries:
                for segment in entry.segments:
                    if not segment.holders:
                        self._storage.enter(segment, None)
                self._books.insert(entry)
            due = self._books.drop_expired()
        self._storage.make_room("disk", 0)
        if due is not None:
            self._keeper.wake()

    # --- looking up --------------------------------------------------------------------------------------------------

    def longest_prefix(
        self, namespace: str, tokens: Tokens, max_depth: int, kl_bound: float = math.inf, *, weights: str = ""
    ) -> tuple[Entry, int] | None:
        """The entry with the longest common prefix that is :meth:`Entry.usable`, and its length; None if none is.

        Like every look-up it finds only what the ``weights`` that are named computed.
        """
        return self._longest_prefix(self._readable(namespace, weights), tokens, max_depth, kl_bound)

    def _longest_prefix(
        self, indexes: Iterable[Indexes], tokens: Tokens, max_depth: int, kl_bound: float = math.inf
    ) -> tuple[Entry, int] | None:
        best: tuple[int, float, str, Entry] | None = None  # of equally long ones the least approximate
        for each in indexes:
            # longest agreement first; its rows may be too deep to use, so go on until no shorter one can serve more
            for name, blocks in each.prefix.agreeing(tokens).items():
                if best is not None and -best[0] >= (blocks + 1) * self.config.block_tokens:
                    break
                entry = self._live(each, name)
                length = entry.usable_prefix(tokens, max_depth, kl_bound) if entry is not None else 0
                if entry is None or length == 0:
                    continue
                key = (-length, entry.kl_bound if length > entry.usable(0) else 0.0, entry.id)
                if best is None or key < best[:3]:
                    best = (*key, entry)
        return (best[3], -best[0]) if best else None

    def similar(self, namespace: str, embedding: Vectors, *, weights: str = "") -> list[tuple[Entry, float]]:
        """The entries most like ``embedding`` [m, dim] that serve the namespace, with similarities in [0, 1]."""
        found = []
        for each in self._readable(namespace, weights) if len(embedding) else ():
            names = each.semantic.search(embedding, self.config.candidates)
            found += [(entry, value) for name, value in names if (entry := self._live(each, name)) is not None]
        return sorted(found, key=lambda item: (-item[1], item[0].id))[: self.config.candidates]

    def sharing(self, namespace: str, tokens: Tokens, count: int, *, weights: str = "") -> list[Entry]:
        """Entries, at most ``count`` of each namespace, that hold most runs of ``tokens`` in rows of depth 0."""
        found = []
        for each in self._readable(namespace, weights):
            names = each.runs.best(tokens, count)
            found += [entry for name in names if (entry := self._live(each, name)) is not None]
        return found

    def _readable(self, namespace: str, weights: str) -> Iterator[Indexes]:
        """The indexes that serve ``namespace``: its own and the public one's."""
        for name in dict.fromkeys((namespace, self.config.public_namespace)):
            space = self._books.spaces.get(name) if name is not None else None
            indexes = space.of(weights) if space is not None else None
            if indexes is not None:
                yield indexes

    def _live(self, indexes: Indexes, name: str) -> Entry | None:
        entry = indexes.entries.get(name)  # None: it left since the index was read
        return None if entry is None or entry.expired(time.time()) else entry

    # --- keeping the books -------------------------------------------------------------------------------------------

    def touch(self, used: Iterable[Entry | View]) -> None:
        """Entries have served a call: they are worth more, and come back to the device."""
        with self._lock:
            entries = [entry for each in used if (entry := self._books.get(each.namespace, each.id)) is not None]
            for entry in entries:
                self._books.use(entry)
        below = [weakref.ref(s) for entry in entries for s in entry.segments if s.tier != "device"]
        if below:
            self._keeper.ask(lambda: self._promote(below))

    def _promote(self, wanted: Sequence[weakref.ref[Segment]]) -> None:
        with self._lock:
            pinned = self._books.held()
        self._storage.promote([segment for each in wanted if (segment := each()) is not None], pinned)

    def discard(self, unwanted: Iterable[Entry | View]) -> None:
        """Drop entries; those that are gone already are passed over."""
        with self._lock:
            for each in unwanted:
                entry = self._books.get(each.namespace, each.id)
                if entry is not None:
                    self._books.remove(entry)

    def clear(self, namespace: str | None = None) -> int:
        """Drop the entries of ``namespace``, or of all namespaces when None, pinned ones too; returns how many."""
        with self._lock:
            doomed = list(self._books.chosen(namespace))
            for entry in doomed:
                self._books.remove(entry)
            return len(doomed)

    def stats(self, namespace: str | None = None) -> PoolStats:
        """Counts and bytes, of one namespace or of all. A namespace's tell nothing of any other."""
        with self._lock:
            self._books.drop_expired()
            chosen = list(self._books.chosen(namespace))
            segments = {segment for entry in chosen for segment in entry.segments}
            counts = [count for name, count in self._books.counts.items() if namespace in (None, name)]
            device, host = (sum(s.n_bytes for s in segments if s.tier == tier) for tier in ("device", "host"))
            quota = self.config.namespace_bytes if namespace is not None else None
            return PoolStats(
                entries=len(chosen),
                tokens=sum(map(len, chosen)),
                bytes=device + host,
                max_bytes=self.config.max_bytes if quota is None else min(quota, self.config.max_bytes),
                evictions=sum(count.evictions for count in counts),
                rejected=sum(count.rejected for count in counts),
                device_bytes=device,
                host_bytes=host,
                disk_bytes=sum(s.n_bytes for s in segments if s.stored is not None),
            )

    def flush(self) -> None:
        """Wait until what was added is on disk and what was used is back on the device."""
        self._keeper.flush()

    def close(self) -> None:
        """Write what is still to be written, give the folder free, forget everything and end the thread."""
        self.flush()
        with self._lock:
            self._books.tell(None)  # what is forgotten from now on stays on disk
            self._saving = None
        self.clear()
        self._keeper.close()
        if self._folder is not None:
            self._folder.close()


def _drop_expired(pool: weakref.ref[ReferencePool]) -> float | None:
    """What is due leaves although no call comes; the seconds until something else may be due."""
    this = pool()
    if this is None:
        return None
    with this._lock:
        left = this._books.drop_expired()
    return None if left is None else min(left, _LONGEST_WAIT)
