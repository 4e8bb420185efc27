"""Which references cover most of a prompt with identical runs, each counted for what the ones before it leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.runs import kgram_hashes
from semshare_core.tokens import Tokens


@dataclass(frozen=True)
class Coverage:
    """
    Attributes:
        chosen: numbers of the texts, the one that covers most first.
        blocked: coverage lost to rows that may not serve, as a share of the k-grams: what the best text covers with all
            of its rows, less what the best covers with its usable ones.
    """

    chosen: list[int]
    blocked: float


def cover(
    wanted_grams: NDArray[np.uint64], texts: Sequence[Tokens], usable: Sequence[int], k: int, count: int
) -> Coverage:
    """Choose at most ``count`` of ``texts`` for the k-grams that they share with a prompt.

    Args:
        wanted_grams: :func:`kgram_hashes` of the prompt's tokens that are to be covered.
        texts: int64 [n] each; of those that cover equally much the first is taken.
        usable: how many leading tokens of each text have rows that may serve.
        k: tokens in a k-gram.
    """
    wanted, counts = np.unique(wanted_grams, return_counts=True)
    if not texts or not wanted.size:
        return Coverage([], 0.0)
    lengths = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), lengths)
    grams = kgram_hashes(np.concatenate(texts), k)  # of all in one go
    place = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    same = (wanted[place] == grams) & (owner[: len(grams)] == owner[k - 1 :])  # those across two texts are nobody's
    ends = np.cumsum(lengths) - lengths + usable
    may_serve = same & (np.arange(len(grams)) + k <= ends[owner[: len(grams)]])

    def by_text(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which wanted grams each text has, bool [texts, grams], of the occurrences in ``mask``."""
        covers = np.zeros((len(texts), len(wanted)), bool)
        covers[owner[: len(grams)][mask], place[mask]] = True
        return covers

    covers = by_text(may_serve)
    blocked = max(0.0, float((by_text(same) @ counts).max() - (covers @ counts).max()) / int(counts.sum()))
    chosen: list[int] = []
    while len(chosen) < count:
        gains = covers @ counts
        best = int(gains.argmax())
        if gains[best] == 0:
            break
        chosen.append(best)
        covers &= ~covers[best]
    return Coverage(chosen, blocked)
