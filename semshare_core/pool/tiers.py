"""Where segments lie: on the device, in host memory, on disk, each within its budget of bytes.

Memory tiers are exclusive, the disk keeps copies: every segment is written there in the background, so that what memory
has no more room for need only be let go. What has the least value goes first (``semshare_core.pool.eviction``), one
tier down where there is one, out of the pool where there is none. The disk's budget is the folder's: what other models
have there leaves in the same order.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Literal

import torch

from semshare_core.config import PoolConfig
from semshare_core.errors import DamagedFileError, PoolFileError, PoolWarning
from semshare_core.pool.disk.folder import Other, PoolFolder
from semshare_core.pool.disk.record import SegmentRef
from semshare_core.pool.disk.segment_file import StoredRows
from semshare_core.pool.eviction import EvictionPolicy, EvictionQueue
from semshare_core.pool.segment import MemoryRows, Segment, Tier, read_rows, to_devices, to_host
from semshare_core.process.forking import free, whole

Place = Tier | Literal["disk"]


class Tiers:
    """Keeps count of segments' bytes and moves them between tiers.

    ``lock`` guards every field and is never held while bytes are copied or written. ``making_room`` is held by whoever
    frees memory, so that two do not free it for the same bytes.
    """

    def __init__(
        self,
        config: PoolConfig,
        lock: threading.RLock,
        policy: EvictionPolicy,
        drop: Callable[[Segment], None],
        *,
        folder: PoolFolder | None = None,
        devices: Sequence[torch.device] = (),
    ) -> None:
        self.budget: dict[Place, int] = {
            "device": config.max_bytes,
            "host": config.host_bytes,
            "disk": config.disk_bytes if folder is not None else 0,
        }
        self.used: dict[Place, int] = {"device": 0, "host": 0, "disk": 0}
        self.making_room = whole(threading.RLock())
        self._lock = lock
        self._policy = policy
        self._drop = drop
        self._folder = folder
        self._devices = list(devices)
        self._storing = free(threading.Lock())
        self._queues: dict[Place, EvictionQueue] = {
            "device": EvictionQueue(lambda segment: segment.tier == "device"),
            "host": EvictionQueue(lambda segment: segment.tier == "host"),
            "disk": EvictionQueue(lambda segment: segment.stored is not None),
        }
        self._others: dict[str, Segment] = {}  # on disk, of entries of other models
        self._give_up: weakref.WeakMethod[Callable[[], bool]] | None = None
        self._warned = False

    def on_need(self, give_up: Callable[[], bool]) -> None:
        """Call ``give_up`` when nothing else can leave the device; it says whether it made room."""
        self._give_up = weakref.WeakMethod(give_up)

    def _give_up_copies(self) -> bool:
        give_up = self._give_up() if self._give_up is not None else None
        return give_up is not None and give_up()

    @property
    def writes(self) -> bool:
        """True where segments are to be kept on disk."""
        return self._folder is not None and not self._folder.read_only

    def on_disk(self, namespace: str, segments: Iterable[SegmentRef], known: dict[str, Segment]) -> list[Segment]:
        """The segments of an entry that was stored earlier; those that are ``known`` already, or are from now on."""
        assert self._folder is not None
        found, start = [], 0
        for ref in segments:
            if ref.id not in known:
                rows = StoredRows(self._folder.rows, ref)
                known[ref.id] = Segment(namespace, start, ref.tokens, rows, ref.n_bytes, stored=rows, id=ref.id)
            found.append(known[ref.id])
            start += ref.tokens
        return found

    def count_other(self, other: Other) -> None:
        """Count an entry that another model has in the folder. Needs the lock."""
        segments = self.on_disk(other.namespace, other.segments, self._others)
        for segment in segments:
            if not segment.holders:
                self.enter(segment, None)
                segment.holders.add("another model's")
            segment.uses, segment.pinned = max(segment.uses, other.uses), segment.pinned or other.pinned
        self._policy.value(segments)
        for segment in reversed(segments):
            self.push(segment)

    def forget_others(self, segments: Iterable[str]) -> None:
        """What other models had is gone from the folder."""
        with self._lock:
            for name in segments:
                if (other := self._others.pop(name, None)) is not None:
                    self.leave(other)

    def enter(self, segment: Segment, tier: Tier | None) -> None:
        """Count a segment, in a memory tier or (None) as one that is on disk already; it is queued when it is valued.

        Needs the lock.
        """
        segment.tier = tier
        if tier is not None:
            self.used[tier] += segment.n_bytes
        if segment.stored is not None:
            self.used["disk"] += segment.n_bytes

    def leave(self, segment: Segment) -> bool:
        """Stop counting a segment that nobody holds; True if its file is still to be removed. Needs the lock."""
        if segment.tier is not None:
            self.used[segment.tier] -= segment.n_bytes
            segment.tier = None
        stored = segment.stored is not None
        if stored:
            self.used["disk"] -= segment.n_bytes
            segment.stored = None
        return stored

    def push(self, segment: Segment) -> None:
        """Queue a segment at its new value. Needs the lock."""
        for waiting in self._queues.values():
            waiting.push(segment)

    def make_room(
        self, tier: Place, need: int, keep: Collection[Segment] = (), pinned: Collection[Segment] = ()
    ) -> bool:
        """Free ``need`` bytes of a tier's budget; False, and nothing is lost, if what must stay leaves too little."""
        stay = {*keep, *pinned}
        staying = sum(s.n_bytes for s in stay if (s.stored is not None if tier == "disk" else s.tier == tier))
        if need + staying > self.budget[tier]:
            return False
        while True:
            with self._lock:
                if self.used[tier] + need <= self.budget[tier]:
                    return True
                victim = self._queues[tier].least(stay)
                if victim is None:
                    if tier == "device" and self._give_up_copies():
                        continue
                    return False
                self._policy.evicted(victim)
                if tier == "disk" and victim.id not in self._others:  # the last place there is
                    self._drop(victim)
                    continue
            if tier == "disk":
                self._evict_other(victim)
            else:
                self._out_of_memory(victim, tier, stay)

    def _evict_other(self, segment: Segment) -> None:
        assert self._folder is not None
        try:
            self.forget_others([segment.id, *self._folder.evict(segment.id)])
        except PoolFileError as error:
            self._warn(error)

    def _out_of_memory(self, segment: Segment, tier: Tier, stay: Collection[Segment]) -> None:
        """One tier down, or out of the pool."""
        rows = segment.rows
        if tier == "device" and isinstance(rows, MemoryRows) and self.make_room("host", segment.n_bytes, stay):
            self._move(segment, to_host(rows), "host")
            return
        if self.writes and segment.stored is None:
            self.store(segment)
        with self._lock:
            if segment.tier is None:  # gone meanwhile
                return
            if segment.stored is not None:
                self.used[segment.tier] -= segment.n_bytes
                segment.rows, segment.tier = segment.stored, None
                self.push(segment)
            else:
                self._drop(segment)

    def _move(self, segment: Segment, rows: MemoryRows, tier: Tier) -> None:
        with self._lock:
            if not segment.holders:
                return
            self._lift(segment)
            segment.rows, segment.tier = rows, tier
            self.used[tier] += segment.n_bytes
            self.push(segment)

    def store(self, segment: Segment) -> bool:
        """Write a segment to disk; False, with a warning once, if that fails. Waits for the disk."""
        folder = self._folder
        assert folder is not None
        with self._storing:
            rows = segment.rows
            if segment.stored is not None or not segment.holders or not isinstance(rows, MemoryRows):
                return segment.stored is not None
            if not self.make_room("disk", segment.n_bytes, (segment,)):
                return False
            try:
                codec = folder.write_rows(segment.id, rows.pairs)
            except PoolFileError as error:
                self._warn(error)
                return False
            with self._lock:
                if segment.holders:
                    ref = SegmentRef(segment.id, segment.length, segment.n_bytes, *codec)
                    segment.stored = StoredRows(folder.rows, ref)
                    self.used["disk"] += segment.n_bytes
                    self.push(segment)
                    return True
            try:
                folder.remove([], [segment.id])  # it left the pool while it was written
            except PoolFileError as error:  # the next start deletes it
                self._warn(error)
            return False

    def promote(self, segments: Sequence[Segment], pinned: Collection[Segment]) -> None:
        """Bring segments that were used back to the device, where they are worth more than what lies there."""
        for segment in segments:
            if segment.tier == "device" or not segment.holders:
                continue
            with self._lock:
                least = self._queues["device"].peek()
                crowded = self.used["device"] + segment.n_bytes > self.budget["device"]
            if crowded and (least is None or least.value >= segment.value):
                continue
            try:
                self.to_device(segment, segments, pinned)
            except torch.OutOfMemoryError as error:  # the budget is larger than what the device has left
                self._warn(error)
            except DamagedFileError as error:
                self._warn(error)
                with self._lock:
                    self._drop(segment)

    def to_device(self, segment: Segment, keep: Collection[Segment], pinned: Collection[Segment] = ()) -> bool:
        """Rows in device memory from wherever they lie; False if there is no room.

        Raises:
            DamagedFileError: they lie on disk and cannot be read.
            torch.OutOfMemoryError: the device has less memory than the budget; they stay where they were.
        """
        with self.making_room:
            rows = segment.rows
            self._lift(segment)  # its own place on the host is there for what makes room for it
            fits = self.make_room("device", segment.n_bytes, {*keep, segment}, pinned)
            try:
                if fits:  # room first: until then nothing is in memory twice
                    rows = rows if isinstance(rows, MemoryRows) else read_rows(rows)
                    rows = to_devices(rows, self._devices) if self._devices else rows
            except torch.OutOfMemoryError:
                if isinstance(segment.rows, MemoryRows):
                    self._move(segment, segment.rows, "host")
                raise
            if isinstance(rows, MemoryRows):
                self._move(segment, rows, "device" if fits else "host")
        return fits

    def _lift(self, segment: Segment) -> None:
        """Take a segment out of its memory tier."""
        with self._lock:
            if segment.tier is not None:
                self.used[segment.tier] -= segment.n_bytes
                segment.tier = None

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{error} The pool goes on without it.", PoolWarning, stacklevel=2)
