"""Prefix, exact runs and fuzzy matches together make the reuse plan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    fuzzy: str | None = None,
    similarity: float = 0.0,
) -> ReusePlan:
    """Serve every target token that can be served, best source first.

    Args:
        target: int64 [n] token ids.
        references: prompts that may serve; their order does not matter.
        policy: which matchers run.
        table: the model's token embeddings.
        prefix: id of the reference with the longest usable common prefix, and its length.
        fuzzy: id of the one reference that may serve fuzzy tokens, or None.
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
    if policy.matching != "runs" and fuzzy is not None:
        _serve_fuzzy(plan, target, references[index[fuzzy]], index[fuzzy], policy, table)
    return plan


def _serve_fuzzy(
    plan: ReusePlan,
    target: Tokens,
    reference: ReferenceTokens,
    number: int,
    policy: ReusePolicy,
    table: TokenTable,
) -> None:
    """Match what is still new to ``reference`` by embedding; every token finds a partner, good or bad."""
    wanted: Positions = np.flatnonzero(~plan.served)
    if policy.matching == "ordered":
        anchors = np.where(plan.reference == number, plan.position, -1)
        position, _ = OrderedMatcher(table).match(target, wanted, reference.tokens, anchors)
    elif policy.matching == "lsh":
        position, _ = LshMatcher(table).match(target, wanted, reference.tokens)
    else:
        position = np.random.default_rng(policy.seed).integers(0, len(reference.tokens), len(wanted))
    plan.source[wanted] = Source.FUZZY
    plan.reference[wanted] = number
    plan.position[wanted] = position
