"""Many short chains that calibration never saw, at every level, nothing healed; and the noise floor beside them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain as joined
from typing import get_args

import numpy as np

from benchmarks.agents.healing import SHARED
from benchmarks.agents.measuring import Place, floor_turn, full_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import LEVEL, LISTS
from benchmarks.agents.run import AgentRun, emptied, engine_on
from benchmarks.workloads.agent_chains import EDITS, Chain, ChainTurn, chains
from benchmarks.workloads.agent_steps import Ask
from benchmarks.workloads.ordered_lists import LINE, Order, OrderedList, ordered_lists
from benchmarks.workloads.ordered_lists import Place as ListPlace
from benchmarks.workloads.passages import cut_to_tokens
from semshare_core.budget.levels import BOUNDS

PART = "promises"
SEED = "promises"
WITHOUT = f"{LEVEL}, calibration=None"
_EVERY = 5
_AROUND_TOKENS = 300
_LIST_SEED = 1000
"""Others try lists out with smaller ones."""


def promises(run: AgentRun) -> None:
    """The first turn is computed in full once, for all. Behind it every level has a namespace of its own."""
    engine, plan = run.engine, run.plan
    rounded = copy.deepcopy(engine.model).bfloat16()
    bare = engine_on(engine.model, engine.tokenizer)
    for number, chain in enumerate(run.take(PART, short_chains(run, plan.chains, SEED))):
        without = [bare] if number % plan.without == 0 else []
        with emptied(engine, bare):
            first, old = chain.turns[0].prompt, OldText()
            for each in (engine, *without):
                each.warm([first], namespace=SHARED)
            old.add(np.asarray(engine.token_ids(first)))
            for turn, asked in enumerate(chain.turns[1:], 2):
                full = full_turn(engine, asked.prompt, asked.ask)
                place = Place(PART, chain.id, chain.edit, turn)
                for level in BOUNDS:
                    run.serve(engine, full, level, place, old)
                for each in without:
                    run.serve(each, full, LEVEL, place, old, system=WITHOUT)
                if asked.ask.kind != "say":
                    run.keep(floor_turn(engine, rounded, full, place))
                old.add(full.base.ids[0].numpy())


def short_chains(run: AgentRun, count: int, seed: str) -> list[Chain]:
    """``count`` chains, every fifth a list whose order changes; the others under the edits in turn."""
    lists = -(-count // _EVERY)
    edits = [edit for edit in EDITS if edit != "stable"]
    agents = chains(run.material, run.count_tokens, edits, count=count - lists, turns=run.plan.turns, seed=seed)
    return list(_interleaved(agents, list_chains(run, lists, seed)))


def list_chains(run: AgentRun, count: int, seed: str) -> list[Chain]:
    """Lists as they stand in documents, with texts around them."""
    results, source = run.material.results, run.material.sources[0].text
    before, after = (cut_to_tokens(text, _AROUND_TOKENS, run.count_tokens) for text in ("\n\n".join(results), source))
    kinds, places, orders = tuple(LINE), get_args(ListPlace), get_args(Order)
    made = [
        each
        for number in range(count)
        for each in ordered_lists(
            count=1,
            turns=run.plan.turns,
            kinds=[kinds[number // 2 % len(kinds)] if number % 2 else kinds[0]],
            places=[places[number // 2 % 2]],
            orders=[orders[number % len(orders)]],
            before=before if number % 2 else "",
            after=after,
            seed=_LIST_SEED + number,
        )
    ]
    return [_chain(each, f"{seed}-lists") for each in made]


def _chain(made: OrderedList, seed: str) -> Chain:
    turns = [
        ChainTurn(turn.prompt, Ask("place", f" {turn.gold}", f" {turn.old}" if turn.old else "")) for turn in made.turns
    ]
    return Chain(f"{seed}-{made.id}", LISTS, tuple(turns))


def _interleaved(agents: Sequence[Chain], lists: Sequence[Chain]) -> Iterator[Chain]:
    """A list first, then four of the others, and so on: a run that ends early has seen some of each."""
    groups = [(each, *agents[4 * place : 4 * place + 4]) for place, each in enumerate(lists)]
    yield from joined.from_iterable(groups)
