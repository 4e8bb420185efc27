"""Sentences that mention what an edited sentence is about: their old rows may tell the old fact.

"The office is in the same city as the depot" stays as it is when the depot's city is edited. But its rows were
computed behind the old city, and a model reads the answer from them (arXiv 2609.17983). So they are computed again, as
the fact itself is. The words of a sentence tell what it is about: all but the fact, and those that are common in the
vocabulary or in the prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHARE = 1 / 2  # of an edited sentence's words: a sentence that has fewer of them is about something else
_SENTENCES = 4  # a word that stands in more of them is what the whole prompt is about, or common


class Words(NamedTuple):
    """The words of a text.

    Attributes:
        begins: int64 [words], their first tokens.
        names: uint64 [words], the same for the same word.
        sentences: int64 [words], the number of their sentence.
        tells: bool [words], neither marks nor among the vocabulary's commonest words.
    """

    begins: NDArray[np.int64]
    names: NDArray[np.uint64]
    sentences: NDArray[np.int64]
    tells: NDArray[np.bool_]

    def behind(self, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bool [n]: tokens behind one in ``marked`` (bool [n]) of their sentence."""
        n = len(marked)
        sentence = np.repeat(self.sentences, np.diff(self.begins, append=n))
        first = np.full(sentence[-1] + 1, n)
        at = np.flatnonzero(marked)
        np.minimum.at(first, sentence[at], at)
        return np.asarray(np.arange(n) > first[sentence])


def mentioning(words: Words, changed: NDArray[np.bool_], reused: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool [n]: tokens of later sentences that mention what an edited one is about, and are not edited themselves.

    Args:
        words: of a text of n tokens.
        changed: bool [n], parts of facts that differ from an earlier text.
        reused: bool [n], tokens that stood there in the earlier text, too. A sentence without any is new, not edited.
    """
    count = words.sentences[-1] + 1
    differs = np.logical_or.reduceat(changed, words.begins)
    touched, kept = np.zeros(count, bool), np.zeros(count, bool)
    touched[words.sentences[differs]] = True
    kept[words.sentences[np.logical_or.reduceat(reused, words.begins)]] = True
    tells = words.tells & ~differs
    _, name = np.unique(words.names[tells], return_inverse=True)
    name, sentence = np.divmod(np.unique(name * count + words.sentences[tells]), count)
    told = np.bincount(sentence, minlength=count)
    words_of = np.split(name[np.argsort(sentence, kind="stable")], np.cumsum(told)[:-1])
    rare = np.bincount(name)[name] <= _SENTENCES
    name, sentence = name[rare], sentence[rare]
    pairs: list[NDArray[np.int64]] = []
    for further in range(1, _SENTENCES):  # the next sentence with the same word, the one behind it, ...
        first, later = sentence[:-further], sentence[further:]
        both = (name[:-further] == name[further:]) & (touched & kept)[first] & ~touched[later]
        pairs.append(first[both] * count + later[both])
    pair, common = np.unique(np.concatenate(pairs), return_counts=True)
    first, later = np.divmod(pair, count)
    mentions = np.zeros(count, bool)
    for edited, other in zip(*(each[common >= _SHARE * told[first]] for each in (first, later)), strict=True):
        # one that adds no word says the same, and nothing of it
        mentions[other] |= not np.isin(words_of[other], words_of[edited]).all()
    lengths = np.diff(words.begins, append=len(changed))
    return np.repeat(mentions[words.sentences], lengths)
