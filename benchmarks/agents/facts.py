"""Derived facts: does unchanged text answer with the edited fact, or with the one before?"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from benchmarks.agents.held import expected_tokens, likelihood
from benchmarks.agents.item import FactItem
from benchmarks.agents.measuring import own_passes
from benchmarks.agents.plan import LEVEL
from benchmarks.agents.run import AgentRun, emptied
from benchmarks.measure import full_prefill
from benchmarks.systems.answer import common_length
from benchmarks.workloads.derived_facts import FACTS, DerivedDocument, DerivedQuestion, derived_document
from semshare_core.quality.divergence import Continuation

PART = "facts"
_TRIED = 12
_ENOUGH_RIGHT = 0.7


@dataclass
class _Distance:
    """How far one distance has come: documents get shorter until the full prefill answers most questions."""

    stage: int = 0
    right: int = 0
    asked: int = 0
    asked_in_stage: int = 0
    right_in_stage: int = 0

    def count(self, right: int, asked: int) -> None:
        self.right += right
        self.asked += asked
        self.right_in_stage += right
        self.asked_in_stage += asked
        tried = self.asked_in_stage >= _TRIED
        if tried and self.right_in_stage < _ENOUGH_RIGHT * self.asked_in_stage and self.stage + 1 < len(FACTS):
            self.stage += 1
            self.asked_in_stage = self.right_in_stage = 0


def facts(run: AgentRun) -> None:
    """Documents at every distance in turn, until the full prefill has enough answers right at each."""
    plan = run.plan
    rounded = copy.deepcopy(run.engine.model).bfloat16()
    states = {distance: _Distance() for distance in plan.distances}
    planned = [(number, distance) for number in range(plan.documents) for distance in plan.distances]
    for number, distance in run.take(PART, planned):
        state = states[distance]
        if state.right >= plan.right:
            continue
        made = derived_document(
            run.material.memories, run.count_tokens, distance=distance, facts=FACTS[state.stage], seed=str(number)
        )
        with emptied(run.engine):
            measured = _document(run, made, distance, rounded)
        state.count(sum(item.full_right for item in measured), len(measured))
    for distance, state in states.items():
        if state.right < plan.right:
            run.note(
                f"{PART}: at {distance} tokens the full prefill has {state.right} of {state.asked} right, "
                f"{plan.right} are wanted"
            )


def _document(run: AgentRun, made: DerivedDocument, distance: int, rounded: PreTrainedModel) -> list[FactItem]:
    engine = run.engine
    margins, floors = (_full_margins(run, made, model) for model in (engine.model, rounded))
    engine.warm([made.reference], namespace=made.id)
    items = []
    for asked, full, floor in zip(made.questions, margins, floors, strict=True):
        served = engine.prefill(asked.prompt, reuse=LEVEL, namespace=made.id, store=False)
        with own_passes(engine.model):
            margin = sum(
                sign * likelihood(engine.model, served.cache, served.logits, tokens)
                for sign, tokens in zip((1, -1), _choices(run, asked), strict=True)
            )
        report = served.report
        items.append(
            FactItem(
                document=made.id,
                question=asked.id,
                distance=distance,
                tokens_between=asked.distance,
                tokens=report.prompt_tokens,
                margin=round(margin, 4),
                full_margin=round(full, 4),
                outcome=report.outcome,
                recompute_ratio=round(report.recompute_ratio, 4),
                floor_margin=round(floor, 4),
            )
        )
        run.keep(items[-1])
    return items


def _full_margins(run: AgentRun, made: DerivedDocument, model: PreTrainedModel) -> list[float]:
    """The full prefill's by ``model``, of each question: the document is computed once, each question behind it."""
    engine = run.engine
    prompts = [engine.token_ids(asked.prompt) for asked in made.questions]
    shared = min(common_length(prompts[0], other[:-1]) for other in prompts)
    margins = []
    with own_passes(model):
        _, _, cache = full_prefill(model, torch.tensor([prompts[0][:shared]]))
        for asked, ids in zip(made.questions, prompts, strict=True):
            own = copy.deepcopy(cache)
            logits = Continuation(model, own).read(torch.tensor(ids[shared:]), 1)[0]
            new, old = (likelihood(model, own, logits, tokens) for tokens in _choices(run, asked))
            margins.append(new - old)
    return margins


def _choices(run: AgentRun, asked: DerivedQuestion) -> tuple[torch.Tensor, torch.Tensor]:
    """The new and the old answer, int64 [k] each, as they follow the prompt."""
    new, old = (expected_tokens(run.engine.tokenizer, f" {answer}") for answer in (asked.gold, asked.old))
    return new, old
