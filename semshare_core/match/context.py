"""How much the context of a reused row has changed.

A row depends on all tokens before it. In an identical run the nearest tokens are the same. How many of the others are
the same follows from the plan alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import EDIT_TOKENS, ReusePlan, Source

_SHORT_TOKENS = 24  # 16 leaves some that harm; 32 and 48 compute more for little (docs/frontier.md)
_DRIFT = 0.25  # diagonals move by so much per token where words are replaced by more or fewer
_BLOCK = 64  # runs that are compared with all earlier ones at once, which bounds the memory


def context_mismatch(plan: ReusePlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How much the context of each prefix and moved token has changed; 0 for other tokens.

    Returns:
        float64 [n], one minus the Jaccard similarity of the tokens before it in its reference and in the prompt. A
        token is in both if the plan serves it, earlier in the prompt, from an earlier place of the same reference.
        Example: a passage that stood behind A and B and now stands behind B alone, all of equal length: 0.5.
        float64 [n], one over its place in its run: 1, 1/2, 1/3, ...
    """
    return plan.once("context_mismatch", _context_mismatch)


def _context_mismatch(plan: ReusePlan) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n = len(plan)
    changed, shallow = np.zeros(n), np.zeros(n)
    identical = np.flatnonzero((plan.source >= Source.MOVED) & ~_stale(plan))
    if not identical.size:
        return changed, shallow
    reference, position = plan.reference[identical], plan.position[identical]
    begins = np.ones(identical.size, bool)
    begins[1:] = (np.diff(identical) != 1) | (np.diff(position) != 1) | (np.diff(reference) != 0)
    starts = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1
    within = np.arange(identical.size) - starts[run]
    lengths = np.diff(np.append(starts, identical.size))
    common = _before(reference[starts], position[starts], lengths)[run] + within
    common = np.minimum(common, np.minimum(identical, position))  # a passage that is served twice counts once
    changed[identical] = 1.0 - (common + 1) / (identical + position - common + 1)
    shallow[identical] = 1.0 / (1 + within)
    return changed, shallow


def short_matches(plan: ReusePlan) -> NDArray[np.bool_]:
    """Bool [n]: moved tokens in a passage of fewer than 24.

    A passage reaches from one seam to the next. So few equal words are a quotation or chance. Their rows are full of
    another text, and to compute them costs little.
    """
    identical = plan.source >= Source.MOVED
    passage = np.cumsum(plan.seams())
    short = np.bincount(passage, weights=identical) < _SHORT_TOKENS
    short[0] = False  # before the first seam all stands where it stood
    return identical & short[passage]


def misaligned(plan: ReusePlan) -> NDArray[np.bool_]:
    """Bool [n]: tokens served by the same words of another text: ``short_matches`` and fuzzy tokens out of place.

    The right place of such a token lies beside the nearest identical run that is no short match, before or behind it. A
    row from anywhere else shares the token's spelling at best, and nothing of what this text says.
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
    """Per run, how many tokens of earlier runs also stood before it in its reference."""
    runs = len(position)
    common = np.zeros(runs, np.int64)
    numbers, position, lengths = np.arange(runs), position.astype(np.int32), lengths.astype(np.int32)  # half the memory
    for start in range(0, runs, _BLOCK):
        stop = min(start + _BLOCK, runs)
        overlap = np.minimum(position[start:stop, None] - position[:stop], lengths[:stop])
        same = reference[:stop] == reference[start:stop, None]
        same[:, start:] &= numbers[start:stop] < numbers[start:stop, None]
        common[start:stop] = np.sum(overlap, axis=1, where=same & (overlap > 0))
    return common


def _stale(plan: ReusePlan) -> NDArray[np.bool_]:
    return np.zeros(len(plan), bool) if plan.stale is None else plan.stale
