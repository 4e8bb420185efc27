"""Who holds a mark? Sorted arrays in levels, after the log-structured merge tree.

A mark is a 64-bit hash of some piece of an entry's text. A dictionary of millions of marks costs hundreds of bytes for
each and gives the garbage collector millions of objects to visit; here a mark costs 12 bytes, and all of them are a
handful of numpy arrays. Additions make small sorted levels, which are merged into larger ones, so that there are few
(O'Neil et al., "The Log-Structured Merge-Tree", Acta Informatica 1996). Levels never change once they are made.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Marks = NDArray[np.uint64]

_GROWTH = 4  # a level is merged into the one before it unless that one is larger by more than this factor
_DEAD_SHARE = 4  # everything is written anew when one entry in so many has left


@dataclass(frozen=True)
class Hits:
    """Which entries hold which of the marks that were asked for; arrays of equal length.

    Attributes:
        mark: int64, index into the marks; ascending, and of one mark the holder added last comes first.
        holder: int64, index into ``names``.
        names: of all holders, known to the index; append-only, not to be changed.
    """

    mark: NDArray[np.int64]
    holder: NDArray[np.int64]
    names: list[str]


@dataclass(frozen=True)
class _Level:
    """Marks in ascending order, and who holds each; of equal marks the later addition comes last."""

    marks: Marks
    holders: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.marks)

    def merged(self, newer: _Level) -> _Level:
        where = np.searchsorted(self.marks, newer.marks, "right")
        return _Level(np.insert(self.marks, where, newer.marks), np.insert(self.holders, where, newer.holders))

    def without(self, gone: NDArray[np.bool_]) -> _Level:
        kept = ~gone[self.holders]
        return self if kept.all() else _Level(self.marks[kept], self.holders[kept])

    def newest(
        self, marks: Marks, wanted: NDArray[np.int64], gone: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The last ``wanted[i]`` holders of ``marks[i]`` that are not gone: pairs (i, holder), i ascending."""
        first, last = np.searchsorted(self.marks, marks, "left"), np.searchsorted(self.marks, marks, "right")
        window = wanted.copy()
        while True:  # once as a rule; again where so many have left that the window holds too few who are there
            size = np.minimum(last - first, window)
            mark = np.repeat(np.arange(len(marks)), size)
            back = np.arange(len(mark)) - np.repeat(np.cumsum(size) - size, size)
            holder = self.holders[last[mark] - 1 - back].astype(np.int64)
            there = ~gone[holder]
            mark, holder = _leading(mark[there], holder[there], wanted)
            short = (np.bincount(mark, minlength=len(marks)) < wanted) & (size < last - first)
            if not short.any():
                return mark, holder
            window[short] *= _GROWTH


@dataclass(frozen=True)
class _State:
    """All that a reader needs, exchanged as a whole.

    Attributes:
        levels: oldest first.
        names: by number, in the order of addition; numbers beyond those in ``levels`` may have been appended.
        gone: bool, by number, at least as long as the numbers in ``levels``; set in place by removals.
    """

    levels: tuple[_Level, ...]
    names: list[str]
    gone: NDArray[np.bool_]


class MarkIndex:
    """Entry names by mark.

    :meth:`add` and :meth:`remove` are for one thread at a time (the caller's lock); :meth:`holders` needs no lock and
    never waits: it reads one state from beginning to end. An entry that is removed meanwhile may still be found.

    Memory: 12 bytes for a mark of each entry that holds it, up to a third more between a removal and the compaction
    behind it, and about 120 bytes an entry for its name. A merge takes as much again as the levels it merges.
    """

    def __init__(self) -> None:
        self._state = _State((), [], np.zeros(64, np.bool_))
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    @property
    def n_bytes(self) -> int:
        """Bytes of marks, holders and the tables of names; the names themselves are the entries'."""
        state = self._state
        arrays = sum(level.marks.nbytes + level.holders.nbytes for level in state.levels) + state.gone.nbytes
        numbers = sys.getsizeof(self._numbers) + 32 * len(self._numbers)  # an int object each
        return arrays + sys.getsizeof(state.names) + numbers

    def add(self, name: str, marks: Marks) -> None:
        """Enter ``name``, which must not be there, under each of ``marks`` [n], which must be distinct."""
        state = self._state
        number = len(state.names)
        gone = state.gone
        if number == len(gone):
            gone = np.concatenate((gone, np.zeros(len(gone), np.bool_)))
        state.names.append(name)
        self._numbers[name] = number
        levels = list(state.levels)
        if len(marks):
            levels.append(_Level(np.sort(marks), np.full(len(marks), number, np.int32)))
        while len(levels) > 1 and len(levels[-2]) <= _GROWTH * len(levels[-1]):
            newer = levels.pop()
            levels[-1] = levels[-1].without(gone).merged(newer)
        self._state = _State(tuple(levels), state.names, gone)

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not there."""
        state = self._state
        state.gone[self._numbers.pop(name)] = True
        if len(state.names) - len(self._numbers) > max(len(state.names) // _DEAD_SHARE, 64) or not self._numbers:
            self._compact()

    def holders(self, marks: Marks, limit: int) -> Hits:
        """Who holds ``marks`` [n]: of each mark's holders the ``limit`` that were added last."""
        state = self._state
        wanted = np.full(len(marks), limit, np.int64)
        mark, holder = np.empty(0, np.int64), np.empty(0, np.int64)
        for level in reversed(state.levels):
            more = level.newest(marks, wanted, state.gone)
            wanted -= np.bincount(more[0], minlength=len(marks))
            mark, holder = np.concatenate((mark, more[0])), np.concatenate((holder, more[1]))
        order = np.argsort(mark, kind="stable")
        return Hits(mark[order], holder[order], state.names)

    def _compact(self) -> None:
        """One level, numbers without gaps."""
        state = self._state
        there = ~state.gone[: len(state.names)]
        number = (np.cumsum(there) - 1).astype(np.int32)
        merged = _Level(np.empty(0, np.uint64), np.empty(0, np.int32))
        for level in reversed(state.levels):
            merged = level.without(state.gone).merged(merged)
        names = [name for name, kept in zip(state.names, there, strict=True) if kept]
        self._numbers = {name: index for index, name in enumerate(names)}
        levels = (_Level(merged.marks, number[merged.holders]),) if len(merged) else ()
        self._state = _State(levels, names, np.zeros(max(64, 2 * len(names)), np.bool_))


def _leading(
    mark: NDArray[np.int64], holder: NDArray[np.int64], wanted: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each mark's run of holders the first ``wanted``."""
    count = np.bincount(mark, minlength=len(wanted))
    rank = np.arange(len(mark)) - np.repeat(np.cumsum(count) - count, count)
    kept = rank < wanted[mark]
    return mark[kept], holder[kept]
