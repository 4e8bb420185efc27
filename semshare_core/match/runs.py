"""Identical runs: equal tokens anywhere in the references, longest first, in any order.

A k-gram index (k = the shortest run that counts) finds every place where target and references agree on k tokens;
agreements on the same diagonal join into runs. The idea of serving a prompt from displaced identical chunks is
CacheBlend's (arXiv 2405.16444) and Prompt Cache's (arXiv 2311.04934); finding the chunks by k-grams instead of by
agreed borders is ours. Hash hits are compared token by token, so that a collision cannot serve another text.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import ReferenceTokens
from semshare_core.tokens import Positions, Tokens

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MAX_PLACES = 16  # a k-gram that stands in more places than this (tables, refrains) is followed in the first ones only


@dataclass(frozen=True, order=True)
class Run:
    """``length`` target tokens from ``start`` equal the tokens of ``reference`` from ``position``."""

    start: int
    length: int
    reference: int
    position: int


def kgram_hashes(tokens: Tokens, k: int) -> NDArray[np.uint64]:
    """Hash of every k-gram, shape [n - k + 1]; a polynomial over mixed token ids, modulo 2**64."""
    if len(tokens) < k:
        return np.empty(0, np.uint64)
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    hashes = np.zeros(len(tokens) - k + 1, np.uint64)
    for offset in range(k):
        hashes = hashes * _MULTIPLIER + mixed[offset : offset + len(hashes)]
    return hashes


def find_runs(
    target: Tokens,
    references: Sequence[ReferenceTokens],
    k: int,
    start: int = 0,
    grams: NDArray[np.uint64] | None = None,
) -> list[Run]:
    """Disjoint runs of at least ``k`` identical tokens covering ``target[start:]``, chosen longest first.

    The result depends on the references' ids and texts, not on their order. Sorted by target position.

    Args:
        grams: the :func:`kgram_hashes` of ``target``, where the caller has them already.
    """
    maximal: list[tuple[int, int, str, int, int]] = []  # (-length, start, reference id, position, reference)
    wanted = kgram_hashes(target[start:], k) if grams is None else grams[start:]
    for index, reference in enumerate(references):
        for t, r, length in _maximal_runs(target[start:], wanted, reference.tokens, k):
            maximal.append((-length, t + start, reference.id, r, index))
    return _longest_first(maximal, len(target), k)


def _maximal_runs(target: Tokens, wanted: NDArray[np.uint64], reference: Tokens, k: int) -> list[tuple[int, int, int]]:
    """All (target start, reference start, length) that cannot be extended to either side."""
    grams = kgram_hashes(reference, k)
    if not wanted.size or not grams.size:
        return []
    order = np.argsort(grams, kind="stable")
    ranked = grams[order]
    first = np.searchsorted(ranked, wanted, "left")
    count = np.minimum(np.searchsorted(ranked, wanted, "right") - first, _MAX_PLACES)
    t = np.repeat(np.arange(len(wanted)), count)
    within = np.arange(len(t)) - np.repeat(np.cumsum(count) - count, count)
    r = order[np.repeat(first, count) + within]
    for offset in range(k):  # a hash hit is evidence, equal tokens are proof
        same = target[t + offset] == reference[r + offset]
        t, r = t[same], r[same]
    if not t.size:
        return []
    diagonal = r - t
    by_diagonal = np.lexsort((t, diagonal))
    t, r, diagonal = t[by_diagonal], r[by_diagonal], diagonal[by_diagonal]
    breaks = np.flatnonzero((np.diff(t) != 1) | (np.diff(diagonal) != 0)) + 1
    begins = np.concatenate(([0], breaks))
    lengths = np.diff(np.concatenate((begins, [len(t)]))) + k - 1
    return [(int(t[b]), int(r[b]), int(n)) for b, n in zip(begins, lengths, strict=True)]


def _longest_first(maximal: list[tuple[int, int, str, int, int]], n: int, k: int) -> list[Run]:
    """Take runs greedily by length; what a longer run covers is cut off the shorter one."""
    taken = np.zeros(n, bool)
    heapq.heapify(maximal)
    chosen: list[Run] = []
    while maximal:
        negative, start, name, position, reference = heapq.heappop(maximal)
        free = ~taken[start : start - negative]
        if free.all():
            taken[start : start - negative] = True
            chosen.append(Run(start, -negative, reference, position))
            continue
        for begin, end in _stretches(free):
            if end - begin >= k:
                heapq.heappush(maximal, (begin - end, start + begin, name, position + begin, reference))
    return sorted(chosen)


def _stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open intervals where ``mask`` holds."""
    edges: Positions = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
