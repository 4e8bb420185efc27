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
    lengths = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), lengths)
    grams = kgram_hashes(np.concatenate(texts), k)  # of all in one go
    place = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    same = (wanted[place] == grams) & (owner[: len(grams)] == owner[k - 1 :])  # those across two texts are nobody's
    begins = np.cumsum(lengths) - lengths

    def chosen(rows: Sequence[int]) -> list[int]:
        """The texts that cover most with their first ``rows`` rows."""
        ends = begins + rows
        serves = same & (np.arange(len(grams)) + k <= ends[owner[: len(grams)]])
        covers = np.zeros((len(texts), len(wanted)), bool)
        covers[owner[: len(grams)][serves], place[serves]] = True
        return _greedy(covers, counts, count)

    most = chosen(usable)
    if all(usable[number] == lossless[number] for number in most):
        return most
    both = chain.from_iterable(zip_longest(most, chosen(lossless)))
    return list(dict.fromkeys(number for number in both if number is not None))[:count]


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
