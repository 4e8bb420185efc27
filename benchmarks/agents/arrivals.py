"""Calls that arrive while the engine heals: how much longer they wait for the model."""

from __future__ import annotations

import random
import time

from benchmarks.agents.healing import is_healing
from benchmarks.agents.measuring import Place, full_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import LEVEL
from benchmarks.agents.promises import short_chains
from benchmarks.agents.run import AgentRun, emptied

PART = "arrivals"
DURING, ELSE = "during healing", "nothing to heal"


def arrivals(run: AgentRun) -> None:
    """Short chains; each call comes at a random moment of the time that healing the one before it would take."""
    engine = run.healing
    if engine is None:
        run.note(f"{PART}: this version does not heal, so nothing was measured")
        return
    rng = random.Random(PART)
    for chain in run.take(PART, short_chains(run, run.plan.arriving, PART)):
        old = OldText()
        fulls = [full_turn(run.engine, turn.prompt, turn.ask) for turn in chain.turns]
        with emptied(engine):
            for number, full in enumerate(fulls, 1):
                mode = DURING if is_healing(engine) else ELSE
                run.serve(engine, full, LEVEL, Place(PART, chain.id, chain.edit, number, mode), old)
                old.add(full.base.ids[0].numpy())
                time.sleep(rng.random() * full.base.seconds)
