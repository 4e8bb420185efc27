"""Which served tokens state another fact than the rows that serve them: numbers, codes, dates and names that differ.

A reused row whose token was another word is often close enough; one whose token was another number is a wrong answer.
So these are computed whatever the budget says. What counts is seen from the spelling: a digit anywhere in the token, or
a capital letter at its begin, unless it is that of a common word where a sentence begins. In scripts without capitals
only numbers are seen.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from semshare_core.match.distance import since_last
from semshare_core.match.plan import ReferenceTokens, ReusePlan, Source, Tokens

_SPACES = ("\u0120", "\u2581")  # with which the spelling of a word's first token begins
_COMMON_SHARE = 0.05  # of a vocabulary: byte-pair ids are numbered by falling frequency
_QUOTES = "\"'()[]* \u201c\u201d\u2018\u2019\u00ab\u00bb\u201e"
_SENTENCE_ENDS = (".", "!", "?", "\u2026")
_MARKERS = "".join(_SPACES) + "#\u010a "  # of a space or a word's continuation, in the vocabularies of tokenizers


class FactTokens:
    """Which ids of a vocabulary are spelled like parts of numbers, codes or names.

    Args:
        tokenizer: whose vocabulary it is.
        size: ids that the model knows; those without a spelling count as ordinary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._table = np.zeros(size, bool)
        self._digits = np.zeros(size, bool)
        self._continues = np.zeros(size, bool)
        self._small = np.full(size, -1, np.int64)
        self._text_of = functools.cache(lambda token: tokenizer.decode([token]))
        vocabulary = tokenizer.get_vocab()
        # where no spelling begins with a space, none shows where words begin
        spaced = any(spelling.startswith(_SPACES) for spelling in vocabulary)
        for spelling, token in vocabulary.items():
            if token < size:
                self._digits[token] = any(character.isdigit() for character in spelling)
                self._table[token] = self._digits[token] or spelling.strip(_MARKERS)[:1].isupper()
                self._continues[token] = spaced and spelling[:1].isalnum() and not spelling.startswith(_SPACES)
                small = _small(spelling, vocabulary)
                if small < min(token, _COMMON_SHARE * len(vocabulary)):
                    self._small[token] = small

    def changed(
        self, plan: ReusePlan, target: Tokens, references: Sequence[ReferenceTokens], halo: int
    ) -> NDArray[np.bool_]:
        """Bool [n]: fuzzily served tokens whose fact differs, the rest of that fact, and ``halo`` tokens behind it.

        A digit that is served fuzzily differs even where it agrees: its row comes out of another number.

        Args:
            plan: of ``target``.
            target: int64 [n].
            references: those the plan draws on.
        """
        stale = np.zeros(len(target), bool)
        if not (plan.source == Source.FUZZY).any():
            return stale
        naming = self._naming(target)
        by_id = {reference.id: reference.tokens for reference in references}
        for number, name in enumerate(plan.reference_ids):
            places = np.flatnonzero((plan.source == Source.FUZZY) & (plan.reference == number))
            if len(places):
                old, new = by_id[name][plan.position[places]], target[places]
                capital = (old != new) & (self._table[old] | self._table[new])
                named = naming[places] | self._naming(by_id[name])[plan.position[places]]
                for place in np.flatnonzero(capital & ~named):
                    capital[place] = not self._begins_sentence(target, int(places[place]))
                stale[places] = self._digits[new] | capital
        if not stale.any():
            return stale
        # numbers and names are several tokens: those that follow within one have read the wrong begin
        within = self._table[target] | self._continues[target]
        fact = _reached(stale, within)
        # and those before it that were matched one by one, not as part of what stands around them
        loose = self._table[target] & (plan.source == Source.FUZZY)
        fact |= _reached(fact[::-1], loose[::-1])[::-1]
        stale = _reached(fact, within)
        return np.asarray(since_last(stale) <= min(halo, len(target) - 1))

    def _naming(self, text: Tokens) -> NDArray[np.bool_]:
        """Bool [n]: parts of numbers, codes and names; no common words that the text writes without a capital, too."""
        whole = np.append(~self._continues[text[1:]], True)
        small = self._small[text]
        return np.asarray(self._table[text] & ~(whole & (small >= 0) & np.isin(small, text[whole])))

    def _begins_sentence(self, tokens: Tokens, place: int) -> bool:
        """Whether nothing but quotation marks stands between the token and the end of a sentence or line."""
        while place > 0:
            place -= 1
            text = self._text_of(int(tokens[place]))
            if "\n" in text or text.rstrip(_QUOTES).endswith(_SENTENCE_ENDS):
                return True
            if text.strip(_QUOTES):
                return False
        return True


def _small(spelling: str, vocabulary: dict[str, int]) -> int:
    """The token of the same word without a capital, within a line; the vocabulary's length if there is none."""
    word = spelling.lstrip("".join(_SPACES))
    forms = [mark + word.lower() for mark in _SPACES if word[:1].isupper()]
    return min((vocabulary[form] for form in forms if form in vocabulary), default=len(vocabulary))


def _reached(start: NDArray[np.bool_], within: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool [n]: ``start``, and the tokens of ``within`` that follow one of it without a gap."""
    return np.asarray(start | (within & (since_last(start) < since_last(~(within | start)))))
