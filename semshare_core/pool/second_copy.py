"""Second copies: rows that are computed afresh for an entry of the pool while its own rows still serve.

A second copy counts in the pool's budgets. A new entry that finds no other room has its room: the copy is given up, and
its memory is free at once. A complete copy takes the place of the entry's rows, if that very entry is still there.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from threading import RLock
from typing import Protocol

from semshare_core.pool.entries import Entries
from semshare_core.pool.entry import Entry
from semshare_core.pool.namespace_store import NamespaceStore
from semshare_core.pool.segment import MemoryRows, Pair, Segment
from semshare_core.pool.tiers import Tiers


class FreshRows(Protocol):
    """Rows of a prompt in memory, which can be taken out."""

    def take(self, start: int, end: int) -> list[Pair]:
        """Keys and values of tokens ``start:end`` per layer [1, kv_heads, end - start, head_dim]. None are left."""
        ...


class SecondCopy:
    """Room for the rows of an entry, and the rows as far as they are computed.

    Attributes:
        entry: whose rows they will be; a weak reference, as the entry may leave the pool meanwhile.
        n_bytes: counted in the budgets.
        rows: what was computed so far; None: nothing yet, or the copy was given up.
        given_up: somebody else needed the room, or the entry has left.
    """

    def __init__(self, entry: Entry, n_bytes: int, store: NamespaceStore) -> None:
        self.entry = weakref.ref(entry)
        self.n_bytes = n_bytes
        self.rows: FreshRows | None = None
        self.given_up = False
        self.store = store


MakeRoom = Callable[[str, int, Collection[Segment]], bool]


class SecondCopies:
    """The second copies of one pool. ``lock`` is the pool's."""

    def __init__(self, entries: Entries, tiers: Tiers, lock: RLock) -> None:
        self._entries = entries
        self._tiers = tiers
        self._lock = lock
        self._copies: list[SecondCopy] = []
        tiers.on_need(self.give_up_all)
        entries.on_removal(self.give_up_of)

    def begin(self, entry: Entry, tokens: int, make_room: MakeRoom) -> SecondCopy | None:
        """Room for ``tokens`` rows beside those of ``entry``; None if the budget has none, or the entry has left.

        Args:
            make_room: frees bytes in a namespace's budget and on the device; some segments must stay.
        """
        need = entry.n_bytes // len(entry) * tokens
        with self._tiers.making_room:
            if not self.here(entry) or not make_room(entry.namespace, need, entry.segments):
                return None
            with self._lock:
                if not self.here(entry):
                    return None
                copy = SecondCopy(entry, need, self._entries.namespaces[entry.namespace])
                self._tiers.used["device"] += need
                copy.store.n_bytes += need
                self._copies.append(copy)
                return copy

    def here(self, entry: Entry) -> bool:
        """Whether that very entry is in the pool: not one of the same text that came after it."""
        with self._lock:
            self._entries.drop_expired()
            return self._entries.get(entry.namespace, entry.id) is entry

    def give_up(self, copy: SecondCopy) -> None:
        """Free a copy's room and forget its rows."""
        with self._lock:
            copy.given_up, copy.rows = True, None
            if copy in self._copies:  # a forked child may have begun anew, without it
                self._tiers.used["device"] -= copy.n_bytes
                copy.store.n_bytes -= copy.n_bytes
                self._copies.remove(copy)

    def give_up_of(self, entry: Entry) -> None:
        """An entry has left the pool, and what was computed for it leaves memory with it."""
        for copy in [copy for copy in self._copies if copy.entry() is entry]:
            self.give_up(copy)

    def give_up_all(self) -> bool:
        """Free the room of all copies; whether there were any. Needs the lock."""
        copies = list(self._copies)
        for copy in copies:
            self.give_up(copy)
        return bool(copies)

    def replace(self, copy: SecondCopy, start: int, steady: int | None) -> list[Segment] | None:
        """Let a complete copy take the place of its entry's rows, which are lossless from then on. Ends the copy.

        Segments before the first computed row stay, and so stay shared with other entries. Uses, pin, creation and
        expiry stay as they are.

        Args:
            start: the first row that was computed afresh.
            steady: see :class:`Entry`.

        Returns:
            The segments that the entry no longer has; None, and nothing has changed, if that very entry has left.
        """
        entry = copy.entry()
        with self._tiers.making_room:
            with self._lock:
                rows = copy.rows
                if rows is None or entry is None or not self.here(entry):
                    self.give_up(copy)
                    return None
                segments = entry.segments
            steady_before = len(entry.lossless) if entry.steady is None else min(entry.steady, len(entry.lossless))
            kept = _before(segments, min(start, steady_before))
            begin = kept[-1].end if kept else 0
            fresh = MemoryRows(rows.take(begin, len(entry)))
            own = Segment(entry.namespace, begin, len(entry) - begin, fresh, fresh.n_bytes)
            with self._lock:
                self.give_up(copy)  # its rows count as the entry's own from here on
                if not self.here(entry) or entry.segments is not segments:
                    return None
                return self._entries.heal(entry, kept, own, steady)


def _before(segments: Sequence[Segment], end: int) -> list[Segment]:
    """The leading segments of an entry that end before its token ``end``."""
    return [segment for segment in segments if segment.end <= end]
