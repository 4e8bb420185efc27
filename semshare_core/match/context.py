"""What a reused row has read, and what stands before it now.

A row is the same wherever it stands only if it has read the same. Of a row in an identical run the nearest part of its
context is the same by construction; how much of the rest is follows from the plan alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import EDIT_TOKENS, ReusePlan, Source

_SHORT_TOKENS = 24  # 16 leaves some that harm; 32 and 48 compute more for little (docs/frontier.md)
_DRIFT = 0.25  # diagonals move by so much per token where words are replaced by more or fewer
_BLOCK = 512  # runs that are compared with all others at once, which bounds the memory


def context_mismatch(plan: ReusePlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per token of the prefix and of identical runs, how foreign its row is where it stands; 0 elsewhere.

    Returns:
        float64 [n], one minus the Jaccard similarity of the tokens before it in its reference and in the prompt: a
        token is in both where an earlier part of the plan serves it from an earlier place of the same reference.
        float64 [n], one over its place in its run, counted from 1.
    """
    n = len(plan)
    changed, shallow = np.zeros(n), np.zeros(n)
    held = np.flatnonzero((plan.source >= Source.MOVED) & ~_stale(plan))
    if not held.size:
        return changed, shallow
    reference, position = plan.reference[held], plan.position[held]
    begins = np.ones(held.size, bool)
    begins[1:] = (np.diff(held) != 1) | (np.diff(position) != 1) | (np.diff(reference) != 0)
    starts = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1
    within = np.arange(held.size) - starts[run]
    lengths = np.diff(np.append(starts, held.size))
    common = _before(reference[starts], position[starts], lengths)[run] + within
    common = np.minimum(common, np.minimum(held, position))  # a passage that is served twice counts once
    changed[held] = 1.0 - (common + 1) / (held + position - common + 1)
    shallow[held] = 1.0 / (1 + within)
    return changed, shallow


def short_matches(plan: ReusePlan) -> NDArray[np.bool_]:
    """Bool [n]: identical tokens in so short a passage of another place that what they tell is told elsewhere.

    A passage reaches from a seam to the next. A few words in a row that some reference has, too, are a quotation or
    chance: their rows are full of the text that they were read in, and few as they are, they cost little to compute.
    """
    identical = plan.source >= Source.MOVED
    passage = np.cumsum(plan.seams())
    short = np.bincount(passage, weights=identical) < _SHORT_TOKENS
    short[0] = False  # before the first seam all stands where it stood
    return identical & short[passage]


def misaligned(plan: ReusePlan) -> NDArray[np.bool_]:
    """Bool [n]: tokens served by the same words of another text: ``short_matches`` and fuzzy tokens out of place.

    The right place of such a token lies beside the nearest identical run that is no short match, before or behind it. A
    row from anywhere else has the token's spelling, at best, and nothing of what this text says.
    """
    number = np.arange(len(plan))
    alone = short_matches(plan)
    home = (plan.source >= Source.MOVED) & ~alone
    diagonal = number - plan.position
    placed = np.zeros(len(plan), bool)
    before = np.maximum.accumulate(np.where(home, number, -1))
    behind = np.minimum.accumulate(np.where(home, number, len(plan))[::-1])[::-1]
    for nearest in (before, behind):
        there = (nearest >= 0) & (nearest < len(plan))
        nearest = np.where(there, nearest, 0)
        strayed = np.abs(diagonal - diagonal[nearest]) > EDIT_TOKENS + _DRIFT * np.abs(number - nearest)
        placed |= there & (plan.reference == plan.reference[nearest]) & ~strayed
    return (alone | (plan.source == Source.FUZZY)) & ~placed


def _before(reference: NDArray[np.int64], position: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Per run how many tokens earlier runs hold that stood before it in its reference, too."""
    runs = len(position)
    common = np.zeros(runs, np.int64)
    for start in range(0, runs, _BLOCK):
        stop = min(start + _BLOCK, runs)
        earlier = np.arange(stop) < np.arange(start, stop)[:, None]
        same = earlier & (reference[:stop] == reference[start:stop, None])
        overlap = np.clip(position[start:stop, None] - position[:stop], 0, lengths[:stop])
        common[start:stop] = (overlap * same).sum(axis=1)
    return common


def _stale(plan: ReusePlan) -> NDArray[np.bool_]:
    return np.zeros(len(plan), bool) if plan.stale is None else plan.stale
