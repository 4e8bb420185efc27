"""Plans of every source over a tiny model's rows, for the tests of what is recomputed."""

from __future__ import annotations

import numpy as np

from semshare_core.match.plan import ReusePlan, Source
from tiny_reuse import Reference, plan_of, random_ids, reference_of, shared_prefill

N = 90


def random_plan(seed: int, prefix: int) -> tuple[np.ndarray, ReusePlan, list[Reference]]:
    """Prefix, then stretches of every source, exact ones in place or moved."""
    model = shared_prefill("llama").model
    rng = np.random.default_rng(seed)
    ids = random_ids(N, seed)
    other = random_ids(N + 40, seed + 100)
    other[:prefix] = ids[:prefix]
    reference = reference_of(model, other)
    plan = plan_of(N, reference)
    at = prefix
    while at < N:
        end = min(N, at + int(rng.integers(2, 20)))
        source = rng.choice([Source.NEW, Source.FUZZY, Source.MOVED, Source.MOVED])
        if source != Source.NEW:
            plan.serve(at, end, Source(source), 0, at if rng.random() < 0.5 else int(rng.integers(0, 20)))
        at = end
    plan.serve(0, prefix, Source.PREFIX, 0, 0)
    return ids, plan, [reference]


def forced(plan: ReusePlan, fresh_from: int) -> np.ndarray:
    """Tokens computed whatever the budget: new ones, the question, a first token that was not first elsewhere."""
    must = (plan.source == Source.NEW) | (np.arange(N) >= fresh_from)
    must[0] |= plan.position[0] != 0
    return must & (plan.source != Source.PREFIX)
