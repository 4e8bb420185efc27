"""Which earlier prompt is nearest to a prompt: the one that shares most of its text, as a reader would say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.runs import kgram_hashes
from semshare_core.tokens import Tokens, common_prefix

_K = 8  # a shorter run of equal tokens is a phrase that any two texts may share
_BITS = 20  # of a hash: of 4,000 runs 0.4 % seem shared by chance, as much with one candidate as with another


def nearest(target: Tokens, candidates: Sequence[Tokens]) -> Tokens | None:
    """The candidate that shares most runs of eight tokens with ``target``, wherever they stand; None without any.

    Of those that share equally much the one with the longest common beginning is taken, then the one with least other
    text, then the first. One that shares no such run is not near, however the two begin.

    Args:
        target: int64 [n].
        candidates: int64 [m] each.
    """
    grams = kgram_hashes(target, _K)
    best: tuple[int, int, int] | None = None
    found: Tokens | None = None
    for tokens in candidates:
        held = np.zeros(1 << _BITS, bool)
        held[_first_bits(kgram_hashes(tokens, _K))] = True
        rank = (int(np.count_nonzero(held[_first_bits(grams)])), common_prefix(target, tokens), -len(tokens))
        if best is None or rank > best:
            best, found = rank, tokens
    return found if found is not None and np.isin(grams, kgram_hashes(found, _K)).any() else None


def _first_bits(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return hashes >> np.uint64(64 - _BITS)
