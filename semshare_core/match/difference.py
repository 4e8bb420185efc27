"""Where a prompt first departs from an earlier one, and by what.

The kind is read from how the two texts go on. If the prompt's next words stand further behind in the earlier prompt,
text was removed. If the earlier prompt's next words stand further behind in the prompt, text was inserted. If both do,
blocks changed places. Otherwise the texts at the place itself tell: a date or time, an id, a number, or other text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from semshare_core.match.nearest import nearest
from semshare_core.match.plan import EDIT_TOKENS
from semshare_core.match.value_kinds import value_kind
from semshare_core.report.first_difference import QUOTED, DifferenceKind, FirstDifference
from semshare_core.tokens import Tokens, common_prefix

_RUN = 8  # equal tokens that make a text the same text at another place
_SHORT_RUN = 4  # is enough if both sides stand elsewhere, as short lines do
_AROUND = 24  # tokens before and behind the difference that hold the value that differs


def first_difference(
    target: Tokens, candidates: Sequence[Tokens], text_of: Callable[[Tokens], str]
) -> FirstDifference | None:
    """The first difference of a prompt to the nearest of some earlier prompts.

    Args:
        target: int64 [n], the prompt.
        candidates: int64 [m] each, earlier prompts of the caller's own namespace: their text is quoted.
        text_of: the text of tokens.

    Returns:
        None if no candidate shares a run of tokens with the prompt, or if the nearest begins with all of it.
    """
    other = nearest(target, candidates)
    if other is None:
        return None
    index = common_prefix(target, other)
    if index == len(target):
        return None
    here, there = (text_of(tokens[index : index + QUOTED])[:QUOTED] for tokens in (target, other))
    return FirstDifference(index=index, kind=_kind(target, other, index, text_of), here=here, there=there)


def _kind(target: Tokens, other: Tokens, index: int, text_of: Callable[[Tokens], str]) -> DifferenceKind:
    if index == len(other):
        return "text added at the end"
    here, there = target[index:], other[index:]
    removed, inserted = _place(here[:_RUN], there), _place(there[:_RUN], here)
    shift = removed if inserted is None else inserted
    if shift is None or shift <= EDIT_TOKENS:  # a longer time or number may look like an insertion of some tokens
        begin = max(0, index - _AROUND)
        kind = value_kind(*(text_of(tokens[begin : index + _AROUND]) for tokens in (target, other)))
        if kind is not None:
            return kind
    if removed is not None and inserted is not None:
        return "blocks in another order"
    if removed is not None:
        return "blocks in another order" if _moved(there[:removed], here) else "text removed"
    if inserted is not None:
        return "blocks in another order" if _moved(here[:inserted], there) else "text inserted"
    if _moved(here[:_SHORT_RUN], there) and _moved(there[:_SHORT_RUN], here):
        return "blocks in another order"
    return "other text"


def _moved(block: Tokens, text: Tokens) -> bool:
    """Whether a block that is missing here stands further behind; of short ones a phrase is no proof."""
    return len(block) >= _SHORT_RUN and _place(block, text) is not None


def _place(run: Tokens, text: Tokens) -> int | None:
    """Where ``run`` first stands in ``text``; None if nowhere."""
    places = len(text) - len(run) + 1
    if places < 1:
        return None
    same = np.ones(places, bool)
    for offset, token in enumerate(run):
        same &= text[offset : offset + places] == token
    return int(same.argmax()) if same.any() else None
