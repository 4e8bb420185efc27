"""Stale facts: served tokens whose number, code, date or name differs from that of the row that serves them.

A row of another word is often close enough. A row of another number gives a wrong answer: stale facts are computed
whatever the budget says. A token is part of a fact if its text contains a digit of any script, or begins with a capital
letter. The capital of a common word at the beginning of a sentence does not count. A token that is part of a character
counts as the character that it makes with its neighbours. What depends on a stale fact is stale, too
(:mod:`semshare_core.match.mentions`).

Not seen: names in scripts without capitals (Arabic, Devanagari, Chinese), and numbers written as words, such as Chinese
numerals. In a script without spaces, everything up to the next mark counts as the rest of a changed fact.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from semshare_core.match.distance import last_marked, since_last
from semshare_core.match.mentions import Words, mentioning
from semshare_core.match.plan import ReferenceTokens, ReusePlan, Source
from semshare_core.match.spelling import BYTE_LEVEL_SPACE, SPACE, is_whole, joined, reader
from semshare_core.prompt.own_tokenizer import own_tokenizer
from semshare_core.tokens import Tokens

_SPACES = (BYTE_LEVEL_SPACE, SPACE, " ")  # with which a word's first token begins
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: words of other tokens, or in another order, get other names
_COMMON_SHARE = 0.05  # of a vocabulary: byte-pair ids are numbered by falling frequency
_QUOTES = "\"'()[]* \u201c\u201d\u2018\u2019\u00ab\u00bb\u201e"
_LINE_ENDS = "\u010a\n"  # as texts have them, and byte-level vocabularies
_WITHIN = tuple("\u2018\u2019\u201c\u201d\u2013\u2014\u2026")  # words and numbers go on behind them: calibrated so
_SENTENCE_ENDS = (".", "!", "?", "\u2026")
_ALL_SENTENCE_ENDS = (*_SENTENCE_ENDS, "\u3002", "\uff01", "\uff1f", "\u061f", "\u0964")  # Chinese, Arabic, Devanagari
_MARKERS = "".join(_SPACES) + "#\u010a\n"  # of a space or a word's continuation, in the vocabularies of tokenizers


class _Kinds(NamedTuple):
    """What each token of a text is part of, bool [n] each."""

    digits: NDArray[np.bool_]
    facts: NDArray[np.bool_]  # digits and what begins with a capital
    continues: NDArray[np.bool_]  # the word or number of the token before it


class FactTokens:
    """Which tokens of a text are parts of numbers, codes or names.

    Args:
        tokenizer: whose vocabulary it is.
        size: number of ids that the model knows, or a function that gives it now, for vocabularies that grow. Ids
            without a spelling count as ordinary words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int | Callable[[], int]) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._seen: tuple[int, int] | None = None
        self._follow()

    def _follow(self) -> None:
        if callable(self._size):
            seen = (len(self._tokenizer), self._size())
            if seen != self._seen:
                self._read(self._tokenizer, seen[1])
                self._seen = seen
        elif self._seen is None:
            self._read(self._tokenizer, self._size)
            self._seen = (self._size, self._size)

    def _read(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._kinds_of = np.zeros((3, size), bool)
        self._small = np.full(size, -1, np.int64)
        self._is_part = np.zeros(size, bool)
        self._ends, self._breaks, self._says = np.zeros((3, size), bool)
        own = own_tokenizer(tokenizer)
        self._text_of = functools.cache(lambda token: own.decode([token]))
        vocabulary = tokenizer.get_vocab()
        self._common = _COMMON_SHARE * len(vocabulary)
        # where no spelling begins with a space, none shows where words begin
        self._spaced = any(spelling.startswith(_SPACES) for spelling in vocabulary)
        read = reader(vocabulary)
        spelled = {token: read(spelling) for spelling, token in vocabulary.items() if token < size}
        texts = {token: text.decode() for token, text in spelled.items() if is_whole(text)}
        self._parts = {token: part for token, part in spelled.items() if token not in texts}
        self._is_part[list(self._parts)] = self._says[list(self._parts)] = True
        ids = {text: token for token, text in texts.items()}
        for token, text in texts.items():
            self._kinds_of[:, token] = self._kinds_of_text(text)
            self._breaks[token] = any(mark in text for mark in _LINE_ENDS)
            said = text.strip(_MARKERS)
            self._ends[token] = said.rstrip(_QUOTES).endswith(_ALL_SENTENCE_ENDS)
            self._says[token] = any(character.isalnum() for character in said)
            small = _small(text, ids)
            if 0 <= small < min(token, self._common):
                self._small[token] = small

    def changed(
        self, plan: ReusePlan, target: Tokens, references: Sequence[ReferenceTokens], halo: int
    ) -> NDArray[np.bool_]:
        """Bool [n]: served tokens whose fact differs, the rest of that fact, and ``halo`` tokens behind it.

        So are later sentences that mention what a sentence with such a fact, or with a new one, is about.
        A digit that is served fuzzily differs even where it agrees: its row comes out of another number.

        Args:
            plan: of ``target``.
            target: int64 [n].
            references: those the plan draws on.
        """
        self._follow()
        stale = np.zeros(len(target), bool)
        fuzzy, new, identical = plan.source == Source.FUZZY, plan.source == Source.NEW, plan.source >= Source.MOVED
        if not fuzzy.any() and not (new[:-1] & identical[1:]).any():
            return stale
        target_kinds = self._kinds(target)
        within = target_kinds.facts | target_kinds.continues
        naming = self._naming(target, target_kinds)
        by_id = {reference.id: reference.tokens for reference in references}
        for number, name in enumerate(plan.reference_ids):
            places = np.flatnonzero(fuzzy & (plan.reference == number))
            if len(places):
                text, at = by_id[name], plan.position[places]
                kinds = self._kinds(text)
                capital = (text[at] != target[places]) & (kinds.facts[at] | target_kinds.facts[places])
                named = naming[places] | self._naming(text, kinds)[at]
                for place in np.flatnonzero(capital & ~named):
                    capital[place] = not self._begins_sentence(target, int(places[place]))
                stale[places] = target_kinds.digits[places] | capital
        # what follows within a fact whose begin no row serves was read as the end of another one
        stale |= identical & _reached(new & target_kinds.facts, within & identical)
        told = new & target_kinds.facts
        if not stale.any() and not told.any():
            return stale
        # numbers and names are several tokens: those that follow within one have read the wrong begin
        fact = _reached(stale, within)
        # and those before it that were matched one by one, not as part of what stands around them
        loose = target_kinds.facts & fuzzy
        fact |= _reached(fact[::-1], loose[::-1])[::-1]
        stale = _reached(fact, within)
        words = self._words(target, target_kinds)
        # a new fact at the begin of a sentence is put in, and replaces nothing
        dependent = mentioning(words, stale | (told & words.behind(identical)), identical)
        return np.asarray((since_last(stale) <= min(halo, len(target) - 1)) | dependent)

    def _words(self, text: Tokens, kinds: _Kinds) -> Words:
        goes_on = kinds.continues & np.append(False, self._says[text[:-1]])  # not behind a mark or the end of a line
        begins = np.flatnonzero(~goes_on)
        within = np.arange(len(text)) - np.repeat(begins, np.diff(begins, append=len(text)))
        mixed = (text.astype(np.uint64) + np.uint64(1)) * _MIX ** (within + 1).astype(np.uint64)
        # a point between digits ends nothing
        ends = self._breaks[text] | (self._ends[text] & ~np.append(kinds.continues[1:], False))
        sentences = np.concatenate(([0], np.cumsum(ends)[:-1]))
        alone = np.diff(begins, append=len(text)) == 1
        common = alone & (text[begins] < self._common)
        return Words(
            begins,
            np.add.reduceat(mixed, begins),
            sentences[begins],
            np.logical_or.reduceat(self._says[text], begins) & ~common,
        )

    def _kinds(self, text: Tokens) -> _Kinds:
        kinds = self._kinds_of[:, text]
        parts = np.flatnonzero(self._is_part[text])
        for run in np.split(parts, np.flatnonzero(np.diff(parts) > 1) + 1):
            said = joined([self._parts[int(token)] for token in text[run]])
            for place, characters in zip(run, said, strict=True):
                kinds[:, place] = self._kinds_of_text(characters)
        return _Kinds(*kinds)

    def _kinds_of_text(self, text: str) -> tuple[bool, bool, bool]:
        digit = any(unicodedata.category(character).startswith("N") for character in text)
        begins_inside = text[:1].isalnum() or text.startswith(_WITHIN)
        continues = self._spaced and begins_inside and not text.startswith(_SPACES)
        return digit, digit or text.strip(_MARKERS)[:1].isupper(), continues

    def _naming(self, text: Tokens, kinds: _Kinds) -> NDArray[np.bool_]:
        """Bool [n]: parts of numbers, codes and names; no common words that the text writes without a capital, too."""
        whole = np.append(~kinds.continues[1:], True)
        small = self._small[text]
        return np.asarray(kinds.facts & ~(whole & (small >= 0) & np.isin(small, text[whole])))

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


def _small(text: str, ids: dict[str, int]) -> int:
    """The token of the same word without a capital, within a line; -1 if there is none."""
    word = text.lstrip("".join(_SPACES))
    forms = [mark + word.lower() for mark in _SPACES if word[:1].isupper()]
    return min((ids[form] for form in forms if form in ids), default=-1)


def _reached(start: NDArray[np.bool_], within: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool [n]: ``start``, and the tokens of ``within`` that follow one of it without a gap."""
    return np.asarray(start | (within & (last_marked(start) > last_marked(~(within | start)))))
