"""Every edit, turn after turn: back to back, and with time between the turns in which the engine may heal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.agents.healing import healed_rows, idle
from benchmarks.agents.item import BACK_TO_BACK, PREFIX_CACHE, TurnItem
from benchmarks.agents.measuring import FullTurn, Place, full_turn, prefix_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import IDLE, LEVEL, SHORT_IDLE
from benchmarks.agents.run import AgentRun, emptied
from benchmarks.workloads.agent_chains import Chain, agent_chain
from semshare_core import SemShareEngine

PART = "turns"
STABLE = "stable"


def turns(run: AgentRun) -> None:
    """A chain an edit. The full prefills of the first pass stand beside the passes with idle time, too."""
    plan = run.plan
    for edit in run.take(PART, plan.edits):
        chain = agent_chain(run.material, run.count_tokens, edit, turns=plan.turns, sizes=plan.sizes)
        with emptied(run.engine):
            fulls = _back_to_back(run, chain)
        engine = run.healing
        # nothing of a stable history is approximate: there is nothing to heal, and idle time changes nothing
        times = [] if edit == STABLE else [IDLE, *([SHORT_IDLE] if edit in plan.short_idle else [])]
        for factor in times:
            with emptied(engine):
                _with_idle_time(run, engine, chain, fulls, factor)
    served = sum(item.tokens for item in run.record.items if isinstance(item, TurnItem) and _had_time(item))
    rows = healed_rows(run.healing)
    run.note(f"{PART}: healing computed {rows:,} rows for {served:,} served ones ({rows / max(served, 1):.2f} each)")


def _back_to_back(run: AgentRun, chain: Chain) -> list[FullTurn]:
    old = OldText()
    fulls: list[FullTurn] = []
    for number, turn in enumerate(chain.turns, 1):
        full = full_turn(run.engine, turn.prompt, turn.ask)
        run.serve(run.engine, full, LEVEL, Place(PART, chain.id, chain.edit, number, BACK_TO_BACK), old)
        if chain.edit == STABLE and fulls:
            place = Place(PART, chain.id, chain.edit, number, PREFIX_CACHE)
            run.keep(prefix_turn(run.engine, full, fulls[-1].base.ids, place))
        old.add(full.base.ids[0].numpy())
        fulls.append(full)
    return fulls


def _with_idle_time(
    run: AgentRun, engine: SemShareEngine, chain: Chain, fulls: Sequence[FullTurn], factor: float
) -> None:
    old = OldText()
    for number, full in enumerate(fulls, 1):
        place = Place(PART, chain.id, chain.edit, number, idle_mode(factor))
        run.serve(engine, full, LEVEL, place, old)
        called = time.perf_counter()  # comparing the answer took a moment, during which the engine could not heal
        old.add(full.base.ids[0].numpy())
        if number < len(fulls):
            idle(engine, factor * full.base.seconds, since=called)


def idle_mode(factor: float) -> str:
    """The name of an idle time, as in items and tables."""
    return f"idle {factor:g}"


def _had_time(item: TurnItem) -> bool:
    return item.part == PART and item.mode not in (BACK_TO_BACK, PREFIX_CACHE)
