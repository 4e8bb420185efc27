"""Prefix, identical runs and fuzzy matches together make the reuse plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import ReusePolicy
from semshare_core.match.matchers import Candidate, Matcher, matcher_for
from semshare_core.match.plan import ReferenceTokens, ReusePlan, Source
from semshare_core.match.runs import find_runs
from semshare_core.match.token_table import TokenTable
from semshare_core.tokens import Positions, Tokens


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
    lossless: Mapping[str, int] | None = None,
) -> ReusePlan:
    """Serve every target token that can be served, best source first.

    Args:
        target: int64 [n] token ids.
        references: prompts that may serve; their order does not matter.
        policy: which matcher runs, and how long a run must be.
        table: the model's token embeddings.
        prefix: id of the reference with the longest usable common prefix, and its length.
        fuzzy: ids of the references that may serve fuzzy tokens, best first; the matcher says how many it takes.
        similarity: prompt similarity of the best reference, carried into the plan.
        grams: hashes of the target's k-grams, k = ``policy.min_run``, where the caller has them already.
        lossless: how many leading rows of each reference are lossless, by id; None: all.
    """
    references = sorted(references, key=lambda reference: reference.id)
    index = {reference.id: number for number, reference in enumerate(references)}
    plan = ReusePlan.empty(len(target), references, similarity)
    start = 0
    if prefix is not None and prefix[1] > 0:
        start = prefix[1]
        plan.serve(0, start, Source.PREFIX, index[prefix[0]], 0)
    matcher = matcher_for(policy, table)
    if matcher.after_runs:
        originals = None if lossless is None else [lossless[reference.id] for reference in references]
        plan.serve_runs(find_runs(target, references, policy.min_run, start, grams, originals), Source.MOVED)
    _serve_fuzzy(plan, target, references, [index[name] for name in fuzzy[: matcher.max_partners]], matcher)
    return plan


def _serve_fuzzy(
    plan: ReusePlan, target: Tokens, references: Sequence[ReferenceTokens], partners: Sequence[int], matcher: Matcher
) -> None:
    """Let ``matcher`` find rows of ``partners``, numbers of references, for the tokens that nothing serves yet."""
    wanted: Positions = np.flatnonzero(~plan.served)
    if not len(wanted) or not partners:
        return
    candidates = [
        Candidate(references[number].tokens, np.where(plan.reference == number, plan.position, -1))
        for number in partners
    ]
    rows = matcher.match(target, wanted, candidates)
    found = rows.candidate >= 0
    plan.derived.clear()
    plan.source[wanted[found]] = Source.FUZZY
    plan.reference[wanted[found]] = np.asarray(partners)[rows.candidate[found]]
    plan.position[wanted[found]] = rows.position[found]
