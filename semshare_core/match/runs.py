"""Identical runs: equal tokens anywhere in the references, longest first, in any order.

A k-gram index (k = the shortest run that counts) finds every place where target and references agree on k tokens;
agreements on the same diagonal join into runs. The idea of serving a prompt from displaced identical chunks is
CacheBlend's (arXiv 2405.16444) and Prompt Cache's (arXiv 2311.04934); finding the chunks by k-grams instead of by
agreed borders is ours. Hash hits are compared token by token, so that a collision cannot serve another text.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import ReferenceTokens
from semshare_core.sorting import stable_order
from semshare_core.tokens import Positions, Tokens

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ORIGINAL_TOKENS = 24  # a shorter match is a quotation or chance, and no original of the text
_WORSE_CONTEXT = 0.25  # of the tokens before: so many fewer may an original have read than an approximate copy
_MAX_PLACES = 16  # a k-gram that stands in more places than this (tables, refrains) is followed in the first ones only


class Run(NamedTuple):
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
    hashes, length = mixed, 1
    for bit in f"{k:b}"[1:]:  # a hash of twice as many tokens is made of two
        power = np.uint64(pow(int(_MULTIPLIER), length, 2**64))
        hashes, length = hashes[:-length] * power + hashes[length:], 2 * length
        if bit == "1":
            hashes, length = hashes[:-1] * _MULTIPLIER + mixed[length:], length + 1
    return hashes


def find_runs(
    target: Tokens,
    references: Sequence[ReferenceTokens],
    k: int,
    start: int = 0,
    grams: NDArray[np.uint64] | None = None,
    lossless: Sequence[int] | None = None,
) -> list[Run]:
    """Disjoint runs of ``k`` or more identical tokens in ``target[start:]``: originals first, then the longest.

    The result depends on the references' ids and texts, not on their order. Sorted by target position.

    Args:
        grams: the :func:`kgram_hashes` of ``target``, where the caller has them already.
        lossless: how many leading rows of each reference are lossless; None: all. Lossless originals of a text go
            before approximate copies of it, unless their context matches much worse.
    """
    wanted = np.unique(kgram_hashes(target[start:], k) if grams is None else grams[start:], return_inverse=True)
    found = [
        Run(t + start, length, index, r)
        for index, reference in enumerate(references)
        for t, r, length in _maximal_runs(target[start:], wanted, reference.tokens, k)
    ]
    if lossless is None or all(run.position + run.length <= lossless[run.reference] for run in found):
        ranked = [(1, run) for run in found]
    else:
        ranked = _originals_first(found, lossless, len(target))
    maximal = [
        (rank, -run.length, run.start, references[run.reference].id, run.position, run.reference)
        for rank, run in ranked
    ]
    return _longest_first(maximal, len(target), k)


def _originals_first(runs: Sequence[Run], lossless: Sequence[int], n: int) -> list[tuple[int, Run]]:
    """The runs with their ranks: 0 for an original whose context is not much worse than an approximate copy's, else 1.

    A run is divided where the lossless rows of its reference end. An original's context matches about as well as a
    copy's if its reference has nearly as many of the tokens before it.
    """
    has = np.zeros((len(lossless), n + 1), np.int64)
    for run in runs:
        has[run.reference, run.start + 1 : run.start + run.length + 1] = 1
    before = has.cumsum(axis=1)  # [references, n + 1], tokens before each one that stand in the reference, too
    copied = np.zeros(n + 1, np.int64)  # the most that an approximate copy of the token has of those before it
    for run in runs:
        begin = run.start + max(0, lossless[run.reference] - run.position)
        stretch = slice(begin, run.start + run.length)
        copied[stretch] = np.maximum(copied[stretch], before[run.reference, stretch])
    ranked = []
    for run in runs:
        original = min(run.length, max(0, lossless[run.reference] - run.position))
        if original < _ORIGINAL_TOKENS:
            ranked.append((1, run))
            continue
        stretch = slice(run.start, run.start + original)
        place = np.arange(run.start, run.start + original)
        lost = ((copied[stretch] - before[run.reference, stretch]) / (place + _ORIGINAL_TOKENS)).mean()
        first = Run(run.start, original, run.reference, run.position)
        ranked.append((int(lost > _WORSE_CONTEXT), first))
        if original < run.length:
            rest = (run.start + original, run.length - original, run.reference, run.position + original)
            ranked.append((1, Run(*rest)))
    return ranked


def _maximal_runs(
    target: Tokens, wanted: tuple[NDArray[np.uint64], Positions], reference: Tokens, k: int
) -> list[tuple[int, int, int]]:
    """All (target start, reference start, length) that cannot be extended to either side.

    ``wanted`` are the distinct k-gram hashes of ``target``, ascending, and for each k-gram which of them it has.
    """
    grams, (hashes, which) = kgram_hashes(reference, k), wanted
    if not hashes.size or not grams.size:
        return []
    order = stable_order(grams)
    ranked = grams[order]
    first = np.searchsorted(ranked, hashes, "left")
    count = np.minimum(np.searchsorted(ranked, hashes, "right") - first, _MAX_PLACES)[which]
    t = np.repeat(np.arange(len(which)), count)
    within = np.arange(len(t)) - np.repeat(np.cumsum(count) - count, count)
    r = order[np.repeat(first[which], count) + within]
    n = len(target)
    keys = np.sort((r - t) * n + t)  # by diagonal, and by target position on each
    t = keys % n
    r = keys // n + t
    same = np.ones(len(t), bool)
    for offset in range(k):  # a hash hit is evidence, equal tokens are proof
        same &= target[t + offset] == reference[r + offset]
    t, r = (t, r) if same.all() else (t[same], r[same])
    if not t.size:
        return []
    breaks = np.flatnonzero((np.diff(t) != 1) | (np.diff(r) != 1)) + 1
    begins = np.concatenate(([0], breaks))
    lengths = np.diff(np.concatenate((begins, [len(t)]))) + k - 1
    return list(zip(t[begins].tolist(), r[begins].tolist(), lengths.tolist(), strict=True))


def _longest_first(maximal: list[tuple[int, int, int, str, int, int]], n: int, k: int) -> list[Run]:
    """Take runs greedily by rank and length; what a longer run covers is cut off the shorter one."""
    taken = bytearray(n)  # 1 where a run was chosen: searched in less time than an array, and most runs are short
    heapq.heapify(maximal)
    chosen: list[Run] = []
    while maximal:
        rank, negative, start, name, position, reference = heapq.heappop(maximal)
        stop = start - negative
        if taken.find(1, start, stop) < 0:
            taken[start:stop] = b"\1" * -negative
            chosen.append(Run(start, -negative, reference, position))
            continue
        for begin, end in _free(taken, start, stop):
            if end - begin >= k:
                heapq.heappush(maximal, (rank, begin - end, begin, name, position + begin - start, reference))
    begins = {(run.reference, run.start, run.position) for run in chosen}
    ends = {(run.reference, run.start + run.length, run.position + run.length) for run in chosen}

    def long_enough(run: Run) -> bool:
        """Shorter ones are parts of a run that was divided, if the other part was not taken elsewhere."""
        begin = (run.reference, run.start, run.position)
        end = (run.reference, run.start + run.length, run.position + run.length)
        return run.length >= k or begin in ends or end in begins

    return sorted(filter(long_enough, chosen))


def _free(taken: bytearray, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Half-open intervals of ``start:stop`` that are not taken."""
    while (begin := taken.find(0, start, stop)) >= 0:
        start = taken.find(1, begin, stop)
        if start < 0:
            yield begin, stop
            return
        yield begin, start
