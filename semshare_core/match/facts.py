"""Which served tokens state another fact than the rows that serve them: numbers, codes, dates and names that differ.

A reused row whose token was another word is often close enough; one whose token was another number is a wrong answer.
So these are computed whatever the budget says. What counts is seen from the spelling: a digit anywhere in the token, or
a capital letter at its begin. In scripts without capitals only numbers are seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from semshare_core.match.plan import ReferenceTokens, ReusePlan, Source, Tokens

_MARKERS = "\u0120\u2581#\u010a "  # of a space or a word's continuation, in the vocabularies of tokenizers


class FactTokens:
    """Which ids of a vocabulary are spelled like parts of numbers, codes or names.

    Args:
        tokenizer: whose vocabulary it is.
        size: ids that the model knows; those without a spelling count as ordinary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._table = np.zeros(size, bool)
        for spelling, token in tokenizer.get_vocab().items():
            if token < size:
                self._table[token] = _tells(spelling)

    def changed(
        self, plan: ReusePlan, target: Tokens, references: Sequence[ReferenceTokens], halo: int
    ) -> NDArray[np.bool_]:
        """Bool [n]: fuzzily served tokens whose fact differs, the rest of that fact, and ``halo`` tokens behind it.

        Args:
            plan: of ``target``.
            target: int64 [n].
            references: those the plan draws on.
        """
        stale = np.zeros(len(target), bool)
        by_id = {reference.id: reference.tokens for reference in references}
        for number, name in enumerate(plan.reference_ids):
            places = np.flatnonzero((plan.source == Source.FUZZY) & (plan.reference == number))
            if len(places):
                old, new = by_id[name][plan.position[places]], target[places]
                stale[places] = (old != new) & (self._table[old] | self._table[new])
        if not stale.any():
            return stale
        # a number is several tokens: those that follow within it have read the wrong begin
        telling = self._table[target]
        broken = np.where(telling, 0, np.arange(1, len(target) + 1))
        within = np.maximum.accumulate(broken)  # the last ordinary token before each, counted from 1
        last = np.maximum.accumulate(np.where(stale, np.arange(1, len(target) + 1), 0))
        stale |= telling & (last > within)
        last = np.maximum.accumulate(np.where(stale, np.arange(len(target)), -1))
        return np.asarray((last >= 0) & (np.arange(len(target)) - last <= halo))


def _tells(spelling: str) -> bool:
    word = spelling.strip(_MARKERS)
    return word[:1].isupper() or any(character.isdigit() for character in word)
