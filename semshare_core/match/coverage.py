"""Which references cover most of a prompt with identical runs, each counted for what the ones before it leave."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.runs import kgram_hashes
from semshare_core.tokens import Tokens


def cover(
    wanted_grams: NDArray[np.uint64],
    texts: Sequence[Tokens],
    usable: Sequence[int],
    lossless: Sequence[int],
    k: int,
    count: int,
) -> list[int]:
    """Choose at most ``count`` of ``texts`` for the k-grams that they share with a prompt.

    If approximate rows are chosen, texts that hold the same in lossless rows are chosen, too: matching prefers those.

    Args:
        wanted_grams: :func:`kgram_hashes` of the prompt's tokens that are to be covered.
        texts: int64 [n] each; of those that cover equally much the first is taken.
        usable: how many leading tokens of each text have rows that may serve.
        lossless: how many leading tokens of each text have lossless rows.
        k: tokens in a k-gram.

    Returns:
        Numbers of the texts, the one that covers most first.
    """
    wanted, counts = np.unique(wanted_grams, return_counts=True)
    if not texts or not wanted.size:
        return []
    grams = [kgram_hashes(text, k) for text in texts]

    def chosen(rows: Sequence[int]) -> list[int]:
        """The texts that cover most with their first ``rows`` rows."""
        covers = np.zeros((len(texts), len(wanted)), bool)
        for number, (hashes, most) in enumerate(zip(grams, rows, strict=True)):
            covers[number] = _among(wanted, np.sort(hashes[: max(0, most - k + 1)]))
        return _greedy(covers, counts, count)

    most = chosen(usable)
    if all(usable[number] == lossless[number] for number in most):
        return most
    both = chain.from_iterable(zip_longest(most, chosen(lossless)))
    return list(dict.fromkeys(number for number in both if number is not None))[:count]


def _among(wanted: NDArray[np.uint64], ranked: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of ``wanted`` are among ``ranked``; both are ascending, which makes the search several times as fast."""
    if not ranked.size:
        return np.zeros(len(wanted), bool)
    return np.asarray(ranked[np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)] == wanted)


def _greedy(covers: NDArray[np.bool_], counts: NDArray[np.int64], count: int) -> list[int]:
    """The rows of ``covers`` [texts, grams], at most ``count``, each for the grams that those before it lack."""
    chosen: list[int] = []
    while len(chosen) < count:
        gains = covers @ counts
        best = int(gains.argmax())
        if gains[best] == 0:
            break
        chosen.append(best)
        covers &= ~covers[best]
    return chosen
