"""Calls that arrive while the engine heals: how much longer they wait for the model."""

from __future__ import annotations

import random
import time

from benchmarks.agents.healing import is_healing
from benchmarks.agents.item import ArrivalItem
from benchmarks.agents.plan import LEVEL
from benchmarks.agents.promises import short_chains
from benchmarks.agents.run import AgentRun, emptied

PART = "arrivals"


def arrivals(run: AgentRun) -> None:
    """Short chains; each call comes at a random moment of the time that healing the one before it would take."""
    engine = run.healing
    rng = random.Random(PART)
    for chain in run.take(PART, short_chains(run, run.plan.arriving, PART)):
        with emptied(engine):
            seconds_per_token = 0.0
            for number, turn in enumerate(chain.turns, 1):
                healing = is_healing(engine)
                report = engine.prefill(turn.prompt, reuse=LEVEL, namespace=chain.id).report
                if number == 1:  # computed in full
                    seconds_per_token = report.prefill_ms / 1e3 / report.prompt_tokens
                waited = round(report.queue_ms, 2)
                run.keep(ArrivalItem(chain.id, number, report.prompt_tokens, report.outcome, healing, waited))
                time.sleep(rng.random() * seconds_per_token * report.prompt_tokens)
