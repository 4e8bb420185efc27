"""The beginning of the model's last answer in a chat: its rows are computed again.

Induction heads find the place where the prompt's last tokens stood before, and copy what followed them there (Olsson
et al., In-context Learning and Induction Heads, arXiv 2209.11895). In a chat that is the previous answer, because every
answer follows the same tokens. So its rows decide the next answer, and a small error in them is copied
(``python -m benchmarks.frontier answers``).
"""

from __future__ import annotations

import numpy as np

from semshare_core.tokens import Tokens

CUE_TOKENS = 3
"""The end of a prompt that an earlier place must repeat: ``<|im_start|>assistant`` and a line end, or ``\\nAI:``."""

MOST_TOKENS = 64
"""Of an answer. What is copied first decides what is copied next."""


def last_answer(ids: Tokens, before: int) -> range:
    """The 64 tokens that follow the last earlier place of the prompt's last three; empty if there is none.

    A shorter answer brings the tokens behind it. A prompt whose last three tokens belong to the question, because its
    template has a shorter cue, has no such place, or one of a question that was asked before.

    Args:
        ids: int64 [n].
        before: where the question begins. What it repeats is no answer.
    """
    n = len(ids)
    begins = max(0, min(before, n - CUE_TOKENS) - CUE_TOKENS + 1)
    same = np.ones(begins, bool)
    for place in range(CUE_TOKENS if begins else 0):
        same &= ids[place : place + begins] == ids[n - CUE_TOKENS + place]
    places = np.flatnonzero(same)
    return begin_of_answer(int(places[-1]) + CUE_TOKENS, n) if len(places) else range(0)


def begin_of_answer(start: int, n: int) -> range:
    """The first tokens of an answer that begins at the token ``start`` of ``n``, at most 64."""
    return range(start, min(start + MOST_TOKENS, n))
