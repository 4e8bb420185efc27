"""Text that repeats itself within a prompt, as the lines of lists, tables and logs do.

The lines of a list share their wording. A model tells them apart by their place and by what stands before them, and
both are what a moved row has wrong. Prose of the same length, moved the same way, is disturbed much less
(``python -m benchmarks.frontier lists``). A text that is there several times, word for word, is no list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.runs import kgram_hashes
from semshare_core.tokens import Tokens

_GRAM = 3  # tokens: shorter ones repeat in any prose, longer ones miss lines that differ in every fourth word
_TIMES = 4  # a phrase that stands there two or three times is common in prose
_LINE = 24  # tokens: places that go on alike for so long are copies of one text, and count once


def repeated(tokens: Tokens) -> NDArray[np.bool_]:
    """Bool [n]: tokens of a stretch of three tokens that stands at four places of ``tokens``, or more.

    Places from which 24 tokens are alike count as one.
    """
    marked = np.zeros(len(tokens), bool)
    grams = kgram_hashes(tokens, _GRAM)
    _, which, count = np.unique(grams, return_inverse=True, return_counts=True)
    often = np.flatnonzero(count[which] >= _TIMES)  # only these may count, and their copies are among them
    lines = kgram_hashes(tokens, _LINE)
    whole, last = np.split(often, [np.searchsorted(often, len(lines))])  # behind the last ones no 24 tokens follow
    first = whole[np.unique(lines[whole], return_index=True)[1]]  # of the places that are alike
    times = np.bincount(which[np.concatenate((first, last))], minlength=len(count))
    begins = often[times[which[often]] >= _TIMES]
    for offset in range(_GRAM):
        marked[begins + offset] = True
    return marked
