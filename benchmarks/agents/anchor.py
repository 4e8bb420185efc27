"""The anchor: compaction by EPIC-128, whose cost and divergence others have published, and ours beside it.

Every turn is served from the turn before it, which was computed in full: what is measured is one step, not a chain.
"""

from __future__ import annotations

import numpy as np

from benchmarks.ablations import epic_ratio
from benchmarks.agents.measuring import Place, full_turn, own_passes, served_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import LEVEL
from benchmarks.agents.run import AgentRun, emptied
from benchmarks.workloads.agent_chains import agent_chain
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.prompt.encode import Prompt

PART = "anchor"
EPIC = "epic-128"
_FIRST = 3
"""In the second turn most of the prompt is new."""


def anchor(run: AgentRun) -> None:
    """The turns of a compaction chain from the third on."""
    engine, plan = run.engine, run.plan
    chain = agent_chain(run.material, run.count_tokens, "compaction", turns=plan.turns, sizes=plan.sizes, seed=PART)
    for turn in run.take(PART, range(_FIRST, plan.turns + 1)):
        before, asked = chain.turns[turn - 2], chain.turns[turn - 1]
        place, old = Place(PART, chain.id, chain.edit, turn), OldText()
        with emptied(engine):
            engine.warm([before.prompt])
            old.add(np.asarray(engine.token_ids(before.prompt)))
            full = full_turn(engine, asked.prompt, asked.ask)
            for system, reuse in ((EPIC, epic_policy(engine, asked.prompt)), (LEVEL, LEVEL)):
                run.keep(served_turn(engine, full, reuse, place, old, system=system, store=False))


def epic_policy(engine: SemShareEngine, prompt: Prompt) -> ReusePolicy:
    """EPIC-128 at the ratio that its heads cost in this prompt."""
    policy = ReusePolicy(selection="epic", recompute_ratio=1.0, matching="runs")
    request = engine._request(prompt, policy, None)
    with own_passes(engine.model):
        plan = request.look_up().plan
    ratio = epic_ratio(plan, request.encoded.fresh_from(policy.fresh_tail))
    return policy.model_copy(update={"recompute_ratio": min(1.0, ratio + 1 / len(plan))})
