"""Find the entries that share the most text with a prompt, wherever in it: fingerprints of token runs.

Of every window of consecutive k-gram hashes the smallest is a fingerprint (winnowing: Schleimer, Wilkerson and Aiken,
"Winnowing: Local Algorithms for Document Fingerprinting", SIGMOD 2003). Two texts with an identical run of
``SURE_TOKENS`` tokens share a fingerprint for certain, at about one fingerprint for eight tokens. A hit is only a
candidate: matching compares the tokens.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import Tokens
from semshare_core.match.runs import kgram_hashes

_K = 8
_WINDOW = 16
_FOLLOWED = 16  # of the entries that hold one fingerprint (refrains, templates, copies) so many are looked at
SURE_TOKENS = _K + _WINDOW - 1


class RunIndex:
    """Entry names by fingerprint. What it finds does not depend on the order of additions."""

    def __init__(self) -> None:
        self._holders: dict[int, list[str]] = {}

    def add(self, name: str, tokens: Tokens) -> None:
        for mark in fingerprints(tokens):
            insort(self._holders.setdefault(mark, []), name)

    def remove(self, name: str, tokens: Tokens) -> None:
        for mark in fingerprints(tokens):
            holders = self._holders[mark]
            del holders[bisect_left(holders, name)]
            if not holders:
                del self._holders[mark]

    def best(self, tokens: Tokens, count: int) -> list[str]:
        """At most ``count`` entries, each chosen for the fingerprints of ``tokens`` that those before it lack."""
        shared: defaultdict[str, set[int]] = defaultdict(set)
        for mark in fingerprints(tokens):
            for name in self._holders.get(mark, ())[:_FOLLOWED]:
                shared[name].add(mark)
        chosen: list[str] = []
        while shared and len(chosen) < count:
            name = min(shared, key=lambda key: (-len(shared[key]), key))
            covered = shared.pop(name)
            chosen.append(name)
            for other in list(shared):
                shared[other] -= covered
                if not shared[other]:
                    del shared[other]
        return chosen


def fingerprints(tokens: Tokens) -> list[int]:
    """The distinct fingerprints of a text."""
    hashes = kgram_hashes(tokens, _K)
    if not len(hashes):
        return []
    windows: NDArray[np.uint64] = np.lib.stride_tricks.sliding_window_view(hashes, min(_WINDOW, len(hashes)))
    return [int(mark) for mark in np.unique(windows.min(axis=1))]
