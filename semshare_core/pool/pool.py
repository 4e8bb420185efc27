"""The pool: reference prompts of many namespaces, found by prefix, by runs and by similarity."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NoReturn

import torch

from semshare_core.config import PoolConfig
from semshare_core.errors import DamagedFileError, NotPicklableError, PoolWarning
from semshare_core.pool.disk.folder import Other, PoolFolder
from semshare_core.pool.disk_writer import DiskWriter, restored
from semshare_core.pool.entries import Entries
from semshare_core.pool.entry import Entry, View
from semshare_core.pool.eviction import EvictionPolicy
from semshare_core.pool.indexes.vector_rows import Vectors
from semshare_core.pool.search import Search
from semshare_core.pool.second_copy import SecondCopies, SecondCopy
from semshare_core.pool.segment import Segment
from semshare_core.pool.sharing import divided, own_rows, reaching
from semshare_core.pool.stats import PoolStats
from semshare_core.pool.tiers import Tiers
from semshare_core.process import forking
from semshare_core.process.worker import Worker
from semshare_core.tokens import Tokens

_ATTENTION_EQUALS = 8192.0  # tokens; see EvictionPolicy
_LONGEST_WAIT = 60.0  # seconds; the clock that says what is due may be set, and runs on while the machine sleeps


class ReferencePool(Search):
    """Thread-safe store of :class:`Entry`.

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
        self._writer: DiskWriter | None = None
        self._owner_elsewhere = False
        self._begin(folder)
        if folder is not None:
            self._restore(folder, embed)
        forking.renewed(self._after_fork)

    def _begin(self, folder: PoolFolder | None) -> None:
        """With nothing in it."""
        config = self.config
        self._folder = folder
        policy = EvictionPolicy(self._attention_equals)
        self._entries = Entries(config, policy)
        self._tiers = Tiers(config, self._lock, policy, self._entries.evict, folder=folder, devices=self._devices)
        self._entries.attach(self._tiers)
        self._copies = SecondCopies(self._entries, self._tiers, self._lock)
        self._worker = Worker("semshare-pool", finishes=True, idle=partial(_drop_expired, weakref.ref(self)))
        if self._tiers.writes and folder is not None:
            self._writer = DiskWriter(folder, self._tiers, self._worker, self._lock)
            self._entries.on_leaving(self._writer.forget)

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError(
            "a pool cannot be pickled or copied. To take its entries elsewhere give it a folder, PoolConfig(path=...), "
            "and use `semshare pool export`."
        )

    def _after_fork(self) -> None:
        """In a forked child the folder is the parent's. What a thread of the parent was in the middle of is dropped."""
        self._owner_elsewhere |= self._writer is not None
        self._writer = None
        self._entries.on_leaving(None)
        if forking.torn(self._lock) or forking.torn(self._tiers.making_room):
            self._begin(None)

    def add(self, entry: Entry, *, copy: bool = False) -> bool:
        """Keep ``entry``, made by :meth:`Entry.of_rows`; False if it is too short, too large or already covered.

        What it begins with, if another entry holds the same lossless rows, is shared; of the rest a copy is kept if
        ``copy`` says so or its rows are views of a larger buffer. An entry that this one continues, with rows
        that are as good, is covered and leaves: the longer one serves for both.
        """
        try:
            return self._add(entry, copy=copy)
        except torch.OutOfMemoryError as error:  # the budget is larger than what the device has left
            message = f"A prompt is not kept: {error} Give the pool a smaller max_bytes."
            warnings.warn(message, PoolWarning, stacklevel=2)
            return self._reject(entry)

    def _add(self, entry: Entry, *, copy: bool) -> bool:
        with self._tiers.making_room:
            with self._lock:
                self._entries.drop_expired()
                if len(entry) < self.config.min_tokens:
                    return self._reject(entry)
                covering, covered = self._entries.related(entry)
                if covering is not None:
                    self._renew(covering, pinned=entry.pinned)
                    return False
            # the same text in better rows replaces it: entries of one name cannot both hold a segment
            shared = [] if any(other.id == entry.id for other in covered) else self._shared(entry)
            start = shared[-1].end if shared else 0
            need = entry.segments[0].n_bytes // len(entry) * (len(entry) - start)
            if not self._make_room(entry.namespace, need, shared):
                return self._reject(entry)
            own = own_rows(entry, start, copy=copy)
            with self._lock:
                if not all(segment.holders for segment in shared):  # cleared meanwhile
                    return self._reject(entry)
                if own is not None:
                    self._tiers.enter(own, "device")
                entry.segments = (*shared, own) if own is not None else tuple(shared)
                entry.expires = self._entries.expiry(entry)
                for other in covered:
                    if other.id == entry.id and self._entries.get(other.namespace, other.id) is other:
                        self._entries.remove(other)
                self._entries.insert(entry)
                for other in covered:
                    if self._entries.get(other.namespace, other.id) is other:
                        self._entries.remove(other)
            if (writer := self._writer) is not None:  # another thread may close the pool
                writer.save(entry)
            elif self._owner_elsewhere:
                self._owner_elsewhere = False
                warnings.warn(
                    "This process was forked from the one that owns the pool's folder: what it adds stays in memory. "
                    "For a folder of its own, make the engine in this process.",
                    PoolWarning,
                    stacklevel=2,
                )
            if entry.expires is not None:
                self._worker.wake()
            return True

    def _shared(self, entry: Entry) -> list[Segment]:
        """Segments of other entries that hold the lossless beginning of ``entry``, divided where it parts from them."""
        store = self._entries.namespaces.get(entry.namespace)
        indexes = store.of(entry.weights) if store is not None else None
        partner = self._longest_prefix([indexes], entry.lossless, 0.0) if indexes is not None else None
        if partner is None:
            return []
        whole, crossing = reaching(*partner)
        if crossing is None or partner[1] - crossing.start < self.config.block_tokens:
            return whole
        with self._lock:
            stay = {*whole, crossing, *self._entries.pinned_segments()}
        try:
            parts = divided(crossing, partner[1], self._tiers, stay)
        except DamagedFileError as error:
            warnings.warn(f"{error} The entry is left out.", PoolWarning, stacklevel=2)
            with self._lock:
                self._entries.evict(crossing)
            return []
        if parts is None:
            return whole
        with self._lock:
            if not crossing.holders:
                return []
            holders = self._entries.replace(crossing, parts)
        if (writer := self._writer) is not None:
            writer.replace(crossing, holders)
        return [*whole, parts[0]]

    def _make_room(self, namespace: str, need: int, keep: Collection[Segment]) -> bool:
        """Make room for ``need`` bytes in a namespace's budget and on the device, where ``keep`` stays."""
        quota = self.config.namespace_bytes
        with self._lock:
            if quota is not None:
                store = self._entries.namespaces.get(namespace)
                stay = {*keep, *self._entries.pinned_segments(namespace)}
                if need + sum(segment.n_bytes for segment in stay) > quota:
                    return False
                while store is not None and store.n_bytes + need > quota:
                    victim = store.queue.least(stay)
                    if victim is None:
                        if self._copies.give_up_all():
                            continue
                        return False
                    self._entries.evict(victim)
            pinned = self._entries.pinned_segments()
        return self._tiers.make_room("device", need, keep, pinned)

    def _renew(self, entry: Entry, *, pinned: bool) -> None:
        """An entry whose text came again."""
        if pinned:
            self._entries.pin(entry)
        self._entries.use(entry)
        entry.expires = self._entries.expiry(entry)
        self._entries.remember_expiry(entry)
        if entry.expires is not None:
            self._worker.wake()

    def _reject(self, entry: Entry) -> bool:
        with self._lock:
            self._entries.counts[entry.namespace].rejected += 1
        return False

    # --- healing ------------------------------------------------------------------------------------------

    def second_copy(self, entry: Entry, tokens: int) -> SecondCopy | None:
        """Room for ``tokens`` rows that are to be computed afresh for ``entry``; None if there is none.

        What is worth least makes room, as it does for a new entry; the rows of ``entry`` stay. A new entry that needs
        the room has it, and the copy is given up.
        """
        return self._copies.begin(entry, tokens, self._make_room)

    def give_up(self, copy: SecondCopy) -> None:
        """End a second copy that is not wanted any more."""
        self._copies.give_up(copy)

    def has(self, entry: Entry) -> bool:
        """Whether that very entry is in the pool, and not one of the same text that came after it."""
        return self._copies.here(entry)

    def heal(self, copy: SecondCopy, start: int, steady: int | None) -> bool:
        """Let the rows of a complete second copy replace those of its entry, which is lossless from then on.

        Args:
            start: the first row that was computed afresh.
            steady: see :class:`Entry`.

        Returns:
            False, and nothing has changed, if that very entry has left: what was cleared does not come back.
        """
        entry = copy.entry()
        with self._tiers.making_room:  # the pool is not closed before the folder is to follow
            released = self._copies.replace(copy, start, steady)
            if released is None or entry is None:
                return False
            if (writer := self._writer) is not None:
                writer.save(entry)
                for segment in released:
                    writer.replace(segment, [entry])
        return True

    def unembedded(self, entry: Entry) -> Entry | None:
        """The entry of the same text, if it is there and was kept while it could not be embedded."""
        with self._lock:
            same = self._entries.get(entry.namespace, entry.id)
        return same if same is not None and not len(same.embedding) else None

    def embed(self, entry: Entry, vectors: Vectors) -> bool:
        """Make an entry that was added without vectors findable by its likeness; False if it has left meanwhile."""
        with self._lock:
            if self._entries.get(entry.namespace, entry.id) is not entry or len(entry.embedding) or not len(vectors):
                return False
            indexes = self._entries.namespaces[entry.namespace].of(entry.weights)
            assert indexes is not None, "it is in the pool"
            indexes.semantic.add(entry.id, vectors)
            entry.embedding = vectors
        if (writer := self._writer) is not None:
            writer.save(entry)
        return True

    def _restore(self, folder: PoolFolder, embed: Callable[[Tokens], Vectors] | None) -> None:
        found: list[Entry | Other] = list(restored(folder, self._tiers, embed))
        if self._tiers.writes:
            found += folder.found.others
        with self._lock:
            for each in sorted(found, key=lambda each: each.created):  # of those worth the same the older leaves first
                if isinstance(each, Entry):
                    for segment in each.segments:
                        if not segment.holders:
                            self._tiers.enter(segment, None)
                    self._entries.insert(each)
                else:
                    self._tiers.count_other(each)
            due = self._entries.drop_expired()
        self._tiers.make_room("disk", 0)
        if due is not None:
            self._worker.wake()

    # --- upkeep -------------------------------------------------------------------------------------------

    def touch(self, used: Iterable[Entry | View]) -> list[Entry]:
        """Entries have served a call: they are worth more, and come back to the device. Returns those still there."""
        with self._lock:
            entries = [entry for each in used if (entry := self._entries.get(each.namespace, each.id)) is not None]
            for entry in entries:
                self._entries.use(entry)
        below = [weakref.ref(s) for entry in entries for s in entry.segments if s.tier != "device"]
        if below:
            self._worker.ask(lambda: self._promote(below))
        return entries

    def _promote(self, wanted: Sequence[weakref.ref[Segment]]) -> None:
        with self._lock:
            pinned = self._entries.pinned_segments()
        self._tiers.promote([segment for each in wanted if (segment := each()) is not None], pinned)

    def leave_device(self) -> None:
        """Move all rows but pinned ones off the device, to where there is room; those that find none leave the pool."""
        with self._tiers.making_room:
            with self._lock:
                pinned = self._entries.pinned_segments()
            stays = sum(segment.n_bytes for segment in pinned if segment.tier == "device")
            self._tiers.make_room("device", self._tiers.budget["device"] - stays, (), pinned)

    def discard(self, unwanted: Iterable[Entry | View]) -> None:
        """Drop entries; those that are gone already are passed over."""
        with self._lock:
            for each in unwanted:
                entry = self._entries.get(each.namespace, each.id)
                if entry is not None:
                    self._entries.remove(entry)

    def clear(self, namespace: str | None = None) -> int:
        """Drop the entries of ``namespace``, or of all namespaces when None, pinned ones too; returns how many.

        The folder forgets them for every model that has any there, before this returns: none comes back, even if the
        process is killed right behind it.

        Raises:
            PoolFileError: the disk cannot be written; memory has forgotten them.
        """
        drop = partial(self._drop, namespace)
        return drop() if (writer := self._writer) is None else writer.clear(drop, namespace)

    def _drop(self, namespace: str | None) -> int:
        with self._lock:
            doomed = list(self._entries.chosen(namespace))
            for entry in doomed:
                self._entries.remove(entry)
            return len(doomed)

    def stats(self, namespace: str | None = None) -> PoolStats:
        """Counts and bytes, of one namespace or of all. A namespace's tell nothing of any other."""
        with self._lock:
            self._entries.drop_expired()
            chosen = list(self._entries.chosen(namespace))
            segments = {segment for entry in chosen for segment in entry.segments}
            counts = [count for name, count in self._entries.counts.items() if namespace in (None, name)]
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
                approximate=sum(entry.approximates for entry in chosen),
                healed=sum(count.healed for count in counts),
                healed_tokens=sum(count.healed_tokens for count in counts),
            )

    def flush(self) -> None:
        """Wait until what was added is on disk and what was used is back on the device."""
        self._worker.wait()

    def close(self) -> None:
        """Write what is still to be written, give the folder free, forget everything and end the thread."""
        self.flush()
        with self._tiers.making_room, self._lock:  # nobody is between a change and its writing
            self._entries.on_leaving(None)  # what is forgotten from now on stays on disk
            self._writer = None
        self.flush()  # what was added or healed meanwhile: its entry must not be gone when its turn comes
        self.clear()
        self._worker.close()
        if self._folder is not None:
            self._folder.close()


def _drop_expired(pool: weakref.ref[ReferencePool]) -> float | None:
    """What is due leaves although no call comes; the seconds until something else may be due."""
    this = pool()
    if this is None:
        return None
    with this._lock:
        left = this._entries.drop_expired()
    return None if left is None else min(left, _LONGEST_WAIT)
