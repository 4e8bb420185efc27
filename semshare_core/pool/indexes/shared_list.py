"""A long list that never changes: what is changed is a new list, which shares most of its memory with the old one."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Generic, TypeVar

T = TypeVar("T")

_LARGEST = 256  # a block of more items is divided


class SharedList(Generic[T]):
    """Blocks of items; a changed list has one block, or two, of its own."""

    def __init__(self, blocks: Sequence[tuple[T, ...]] = ()) -> None:
        self._blocks = blocks
        self._begins = list(accumulate(map(len, blocks), initial=0))  # of the blocks, and the end of the last one

    def __len__(self) -> int:
        return self._begins[-1]

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._blocks)

    def __getitem__(self, at: int) -> T:
        block = self._block(at)
        return self._blocks[block][at - self._begins[block]]

    @property
    def n_bytes(self) -> int:
        """Bytes of the list, without its items."""
        return sum(map(sys.getsizeof, (self._blocks, self._begins, *self._blocks)))

    def inserted(self, at: int, item: T) -> SharedList[T]:
        """The list with ``item`` before the one at ``at``, which may be the end."""
        if not self._blocks:
            return SharedList([(item,)])
        block = self._block(at)
        at -= self._begins[block]
        old = self._blocks[block]
        return self._replaced(block, (*old[:at], item, *old[at:]))

    def without(self, at: int) -> SharedList[T]:
        """The list without the item at ``at``."""
        block = self._block(at)
        at -= self._begins[block]
        old = self._blocks[block]
        return self._replaced(block, (*old[:at], *old[at + 1 :]))

    def _replaced(self, block: int, new: tuple[T, ...]) -> SharedList[T]:
        half = len(new) // 2
        parts = [new] if len(new) <= _LARGEST else [new[:half], new[half:]]
        return SharedList([*self._blocks[:block], *filter(None, parts), *self._blocks[block + 1 :]])

    def _block(self, at: int) -> int:
        return bisect_right(self._begins, at, hi=len(self._blocks)) - 1
