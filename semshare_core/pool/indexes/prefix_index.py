"""Find the entries that begin as a prompt does: their texts in the order of a dictionary.

Texts that begin alike stand side by side. Seen from the place of a prompt, the common beginning becomes shorter with
every step to the left, and with every step to the right. So the longest one that may serve is that of the nearest text
whose rows may serve, on one side or the other, however many others stand between.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semshare_core.pool.indexes.shared_list import SharedList
from semshare_core.tokens import Positions, Tokens, common_prefix


class _Item(NamedTuple):
    """A beginning of a text."""

    tokens: Tokens
    name: str


@dataclass(frozen=True)
class _State:
    """All that a reader needs, exchanged as a whole and never changed.

    Attributes:
        items: in the order of their tokens; of equal ones in that of their names.
        accounts: of the items' rows, in nats.
        numbers: of the items' entries, larger for what was added later.
    """

    items: SharedList[_Item]
    accounts: NDArray[np.float64]
    numbers: NDArray[np.int64]

    def inserted(self, item: _Item, account: float, number: int) -> _State:
        at = _place(self.items, item.tokens, item.name)
        accounts, numbers = np.insert(self.accounts, at, account), np.insert(self.numbers, at, number)
        return _State(self.items.inserted(at, item), accounts, numbers)

    def without(self, number: int) -> _State:
        items = self.items
        kept = self.numbers != number
        for at in np.flatnonzero(~kept)[::-1].tolist():
            items = items.without(at)
        return _State(items, self.accounts[kept], self.numbers[kept])

    def alike(self, tokens: Tokens, allowed: Positions, least: int) -> Iterator[tuple[int, Positions]]:
        """Lengths of common beginnings of ``least`` tokens and more, the longest first, and which of the ``allowed``
        items have each."""
        left = right = int(np.searchsorted(allowed, _place(self.items, tokens)))  # all in left:right have come
        while True:
            beside = (*allowed[max(left - 1, 0) : left], *allowed[right : right + 1])
            length = max((common_prefix(self.items[at].tokens, tokens) for at in beside), default=0)
            if length < least:
                return
            begin = tokens[:length]
            ends = _place(self.items, begin), _place(self.items, begin, behind_longer=True)
            first, last = np.searchsorted(allowed, ends).tolist()
            yield length, np.concatenate((allowed[first:left], allowed[right:last]))
            left, right = first, last


class PrefixIndex:
    """Entry names by the beginnings of their texts.

    :meth:`put` and :meth:`remove` are for one thread at a time (the caller's lock); looking up needs no lock and never
    waits: it reads one state from beginning to end. An entry that is removed meanwhile may still be found.

    Args:
        least_tokens: beginnings of fewer tokens are not found.
    """

    def __init__(self, least_tokens: int) -> None:
        self._least = least_tokens
        self._state = _State(SharedList(), np.empty(0), np.empty(0, np.int64))
        self._numbers: dict[str, int] = {}
        self._added = 0

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def n_bytes(self) -> int:
        """Bytes of the order; names and tokens are the entries'."""
        state = self._state
        items = sum(sys.getsizeof(item) + sys.getsizeof(item.tokens[:0]) for item in state.items)
        return items + state.items.n_bytes + state.accounts.nbytes + state.numbers.nbytes

    def put(self, name: str, tokens: Tokens, beginnings: Sequence[tuple[int, float]]) -> None:
        """Enter ``name``, or replace what is there of it.

        Args:
            tokens: int64 [n], its text.
            beginnings: numbers of leading rows, and the account of each, in nats: they serve calls that take so much.
        """
        state = self._state
        if name in self._numbers:
            state = state.without(self._numbers[name])
        self._added += 1
        self._numbers[name] = self._added
        for length, account in beginnings:
            if length >= self._least:
                state = state.inserted(_Item(tokens[:length], name), account, self._added)
        self._state = state

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not there."""
        self._state = self._state.without(self._numbers.pop(name))

    def nearest(self, tokens: Tokens, most: float) -> Iterator[str]:
        """Entries that begin as ``tokens`` int64 [n] do in rows of an account of at most ``most`` nats.

        The longest beginnings come first, of equally long ones the smallest account, and then what was added last.
        """
        state = self._state
        for _, alike in state.alike(tokens, np.flatnonzero(state.accounts <= most), self._least):
            while alike.size:
                accounts = state.accounts[alike]
                best = alike[accounts == accounts.min()]
                chosen = best[state.numbers[best].argmax()]
                yield state.items[chosen].name
                alike = alike[alike != chosen]

    def alike(self, tokens: Tokens, count: int) -> list[str]:
        """At most ``count`` entries that begin as ``tokens`` int64 [n] do, in whatever rows.

        The longest beginnings come first, of equally long ones what was added last.
        """
        state = self._state
        found: dict[str, None] = {}
        for _, alike in state.alike(tokens, np.arange(len(state.items)), self._least):
            for at in alike[np.argsort(-state.numbers[alike])].tolist():
                if len(found) == count:
                    return list(found)
                found[state.items[at].name] = None
        return list(found)


def _place(items: SharedList[_Item], tokens: Tokens, name: str = "", *, behind_longer: bool = False) -> int:
    """Where in their order a text stands, or would stand; ``behind_longer``: behind all texts that begin so."""
    low, high = 0, len(items)
    before = behind = 0  # so many leading tokens the text shares with what stands before ``low``, and from ``high`` on
    while low < high:
        middle = (low + high) // 2
        item, shared = items[middle], min(before, behind)
        shared += common_prefix(item.tokens[shared:], tokens[shared:])
        one, other = (text[shared : shared + 1].tolist() for text in (item.tokens, tokens))  # a text that ends: none
        if (one, item.name) < (other, name) or (behind_longer and shared == len(tokens)):
            low, before = middle + 1, shared
        else:
            high, behind = middle, shared
    return low
