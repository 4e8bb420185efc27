"""Find the entries that share the most text with a prompt, wherever in it: fingerprints of token runs.

Of every window of consecutive k-gram hashes the smallest is a fingerprint (winnowing: Schleimer, Wilkerson and Aiken,
"Winnowing: Local Algorithms for Document Fingerprinting", SIGMOD 2003). Two texts with an identical run of
``SURE_TOKENS`` tokens share a fingerprint for certain, at about one fingerprint for eight tokens. A hit is only a
candidate: matching compares the tokens.
"""

from __future__ import annotations

import numpy as np

from semshare_core.match.runs import kgram_hashes
from semshare_core.pool.indexes.mark_index import MarkIndex, Marks
from semshare_core.sorting import distinct
from semshare_core.tokens import Tokens

_K = 8
_WINDOW = 16
_FOLLOWED = 16  # of the entries that hold one fingerprint (refrains, templates, copies) so many are looked at
SURE_TOKENS = _K + _WINDOW - 1


class RunIndex:
    """Entry names by fingerprint. Locking and memory: see :class:`MarkIndex`; a mark for about eight tokens.

    What it finds does not depend on the order of additions, unless a fingerprint has more than 16 holders: of those the
    16 that were added last are looked at.
    """

    def __init__(self) -> None:
        self._marks = MarkIndex()

    def __len__(self) -> int:
        return len(self._marks)

    def __contains__(self, name: str) -> bool:
        return name in self._marks

    @property
    def n_bytes(self) -> int:
        return self._marks.n_bytes

    def add(self, name: str, tokens: Tokens) -> None:
        """Enter ``name``, which must not be there, with its ``tokens`` int64 [n]."""
        self._marks.add(name, fingerprints(tokens))

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not there."""
        self._marks.remove(name)

    def best(self, tokens: Tokens, count: int) -> list[str]:
        """At most ``count`` entries, each chosen for the fingerprints of ``tokens`` [n] that those before it lack.

        Of entries that add equally much the first by name is taken.
        """
        if not len(self):
            return []
        marks = fingerprints(tokens)
        hits = self._marks.holders(marks, _FOLLOWED)
        holders, holder = np.unique(hits.holder, return_inverse=True)
        names = [hits.names[number] for number in holders]
        mark = hits.mark
        chosen: list[str] = []
        while mark.size and len(chosen) < count:
            gains = np.bincount(holder)
            best = min(np.flatnonzero(gains == gains.max()), key=names.__getitem__)
            chosen.append(names[best])
            covered = np.zeros(len(marks), np.bool_)
            covered[mark[holder == best]] = True
            left = ~covered[mark]
            mark, holder = mark[left], holder[left]
        return chosen


def fingerprints(tokens: Tokens) -> Marks:
    """The distinct fingerprints of a text int64 [n], in ascending order."""
    hashes = kgram_hashes(tokens, _K)
    if not len(hashes):
        return hashes
    width, window = 1, min(_WINDOW, len(hashes))
    while width < window:  # the least of a window is the less of those of two that make it up
        step = min(width, window - width)
        hashes, width = np.minimum(hashes[:-step], hashes[step:]), width + step
    return distinct(hashes)
