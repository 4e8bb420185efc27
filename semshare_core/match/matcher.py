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


def build_plan(
    target: Tokens,
    references: Sequence[ReferenceTokens],
    policy: ReusePolicy,
    table: TokenTable,
    *,
    prefix: tuple[str, int] | None = None,
    fuzzy: Sequence[str] = (),
    similarity: float = 0.0,
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
    """
    references = sorted(references, key=lambda reference: reference.id)
    index = {reference.id: number for number, reference in enumerate(references)}
    plan = ReusePlan.empty(len(target), references, similarity)
    start = 0
    if prefix is not None and prefix[1] > 0:
        start = prefix[1]
        plan.serve(0, start, Source.PREFIX, index[prefix[0]], 0)
    if policy.matching in ("ordered", "runs"):
        for run in find_runs(target, references, policy.min_run, start):
            plan.serve(run.start, run.start + run.length, Source.EXACT, run.reference, run.position)
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
    similar tokens decide, and the order of ``allowed`` between equals.
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
    plan.source[wanted] = Source.FUZZY
    plan.reference[wanted] = matched[0][wanted]
    plan.position[wanted] = matched[1][wanted]


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
