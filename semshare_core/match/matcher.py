"""Prefix, exact runs and fuzzy matches together make the reuse plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import ReusePolicy
from semshare_core.match.lsh import LshMatcher
from semshare_core.match.ordered import OrderedMatcher
from semshare_core.match.plan import Positions, ReferenceTokens, ReusePlan, Source, Tokens
from semshare_core.match.runs import find_runs
from semshare_core.match.token_table import TokenTable

KINDRED_SPAN = 32  # tokens to either side that tell whether a stretch retells another
KINDRED_SHARE = 0.4  # of them have the very token that they are matched to


def build_plan(
    target: Tokens,
    references: Sequence[ReferenceTokens],
    policy: ReusePolicy,
    table: TokenTable,
    *,
    prefix: tuple[str, int] | None = None,
    fuzzy: Sequence[str] = (),
    similarity: float = 0.0,
    grams: NDArray[np.uint64] | None = None,
) -> ReusePlan:
    """Serve every target token that can be served, best source first.

    Args:
        target: int64 [n] token ids.
        references: prompts that may serve; their order does not matter.
        policy: which matchers run.
        table: the model's token embeddings.
        prefix: id of the reference with the longest usable common prefix, and its length.
        fuzzy: ids of the references that may serve fuzzy tokens, best first; the paper's matchers take the first.
        similarity: prompt similarity of the best reference, carried into the plan.
        grams: hashes of the target's k-grams, k = ``policy.min_run``, where the caller has them already.
    """
    references = sorted(references, key=lambda reference: reference.id)
    index = {reference.id: number for number, reference in enumerate(references)}
    plan = ReusePlan.empty(len(target), references, similarity)
    start = 0
    if prefix is not None and prefix[1] > 0:
        start = prefix[1]
        plan.serve(0, start, Source.PREFIX, index[prefix[0]], 0)
    if policy.matching in ("ordered", "runs"):
        for run in find_runs(target, references, policy.min_run, start, grams):
            plan.serve(run.start, run.start + run.length, Source.MOVED, run.reference, run.position)
    if policy.matching == "ordered" and fuzzy:
        _serve_in_order(plan, target, references, [index[name] for name in fuzzy], table)
    elif policy.matching in ("lsh", "random") and fuzzy:
        _serve_from_one(plan, target, references[index[fuzzy[0]]], index[fuzzy[0]], policy, table)
    return plan


def _serve_from_one(
    plan: ReusePlan,
    target: Tokens,
    reference: ReferenceTokens,
    number: int,
    policy: ReusePolicy,
    table: TokenTable,
) -> None:
    """Match what is still new to ``reference`` by embedding; every token finds a partner, good or bad."""
    wanted: Positions = np.flatnonzero(~plan.served)
    if policy.matching == "lsh":
        position, _ = LshMatcher(table).match(target, wanted, reference.tokens)
    else:
        position = np.random.default_rng(policy.seed).integers(0, len(reference.tokens), len(wanted))
    plan.source[wanted] = Source.FUZZY
    plan.reference[wanted] = number
    plan.position[wanted] = position


def _serve_in_order(
    plan: ReusePlan,
    target: Tokens,
    references: Sequence[ReferenceTokens],
    allowed: Sequence[int],
    table: TokenTable,
) -> None:
    """Match every stretch of new tokens to the reference whose text surrounds it, of ``allowed``.

    Where the tokens before and behind a stretch come from two references, or from none that is allowed, the most
    similar tokens decide, and the order of ``allowed`` between equals. What retells nothing stays new, see
    :func:`_kindred`.
    """
    wanted: Positions = np.flatnonzero(~plan.served)
    if not len(wanted):
        return
    begins = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)  # of stretches, in `wanted`
    stretch = np.cumsum(np.diff(wanted, prepend=-2) > 1) - 1
    candidate = _surrounding(plan.reference, wanted, begins, allowed)
    best = np.full(len(begins), -np.inf)
    matched = plan.reference.copy(), plan.position.copy()
    for column, number in enumerate(allowed):
        asked = candidate[column][stretch]
        if not asked.any():
            continue
        anchors = np.where(plan.reference == number, plan.position, -1)
        position, similarity = OrderedMatcher(table).match(target, wanted[asked], references[number].tokens, anchors)
        mean = np.bincount(stretch[asked], similarity, len(begins)) / np.bincount(stretch, minlength=len(begins))
        better = candidate[column] & (mean > best)
        best[better] = mean[better]
        won = better[stretch[asked]]
        matched[0][wanted[asked][won]] = number
        matched[1][wanted[asked][won]] = position[won]
    same = np.zeros(len(wanted), bool)
    for number in allowed:
        taken = matched[0][wanted] == number
        same[taken] = target[wanted[taken]] == references[number].tokens[matched[1][wanted[taken]]]
    kept = wanted[_kindred(same, stretch)]
    plan.source[kept] = Source.FUZZY
    plan.reference[kept] = matched[0][kept]
    plan.position[kept] = matched[1][kept]


def _kindred(same: NDArray[np.bool_], stretch: Positions) -> NDArray[np.bool_]:
    """Which tokens [m] retell the text they are matched to: of those around them in their stretch enough are the same.

    Any text has a partner for every token; of unrelated ones every sixth token is the same in the median stretch, of
    two translations two in three. Rows of unrelated text mislead. Stretches too short to tell are edits, and stay.
    """
    begins = np.searchsorted(stretch, stretch)
    ends = np.searchsorted(stretch, stretch, side="right")
    places = np.arange(len(same))
    low, high = np.maximum(begins, places - KINDRED_SPAN), np.minimum(ends, places + KINDRED_SPAN + 1)
    total = np.concatenate(([0], np.cumsum(same)))
    share = (total[high] - total[low]) / np.maximum(high - low, 1)
    kindred: NDArray[np.bool_] = (share >= KINDRED_SHARE) | (ends - begins < KINDRED_SPAN // 2)
    return kindred


def _surrounding(
    reference: Positions, wanted: Positions, begins: Positions, allowed: Sequence[int]
) -> NDArray[np.bool_]:
    """Which of ``allowed`` may serve which stretch, bool [allowed, stretches]: its neighbours' or, without any, all."""
    ends = np.append(begins[1:], len(wanted)) - 1
    padded = np.concatenate(([-1], reference, [-1]))
    before, behind = padded[wanted[begins]], padded[wanted[ends] + 2]
    numbers = np.asarray(allowed)[:, None]
    near: NDArray[np.bool_] = (numbers == before) | (numbers == behind)
    return near | ~near.any(axis=0)
