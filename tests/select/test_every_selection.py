"""What every selection must do: run over all that are registered.

``python -m pytest tests/select/test_every_selection.py -p MODULE`` runs it over those of your module, too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from random_plans import N, forced, random_plan
from same_answer import assert_full
from semshare_core import ReusePolicy
from semshare_core.budget.recompute import Budget
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import measure_spec
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.select import Evidence, Selection, selection_for
from semshare_core.slots import SELECTIONS
from tiny_models import VOCAB, placed
from tiny_reuse import plan_of, random_ids, reference_of, reused_logits, selective, shared_prefill

pytestmark = pytest.mark.usefixtures("one_thread")

every_selection = pytest.mark.parametrize("selection", SELECTIONS.names())


def evidence_for(selection: Selection, plan: ReusePlan, seed: int, *, observed: bool = True) -> Evidence:
    """What ``selection`` asks for, made up; without what is ``observed``, as on models whose attention is not shown."""
    rng = np.random.default_rng(seed)
    n = len(plan)
    deviation = selection.needs_deviation
    return Evidence(
        plan,
        key_deviation=rng.random(n).astype(np.float32) if deviation else None,
        value_deviation=rng.random(n).astype(np.float32) if deviation else None,
        hot=rng.random(n) < 0.2 if selection.needs_hot and observed else None,
        influence=rng.random(n) if selection.needs_influence and observed else None,
    )


# --- the ranking -------------------------------------------------------------------------------------------------


@every_selection
@pytest.mark.parametrize("observed", [True, False])
def test_the_ranking_has_a_number_for_each_token_and_is_the_same_again(selection: str, observed: bool) -> None:
    for seed in range(4):
        _, plan, _ = random_plan(seed, 10 * (seed % 2))
        policy = ReusePolicy(selection=selection, seed=seed)
        one, other = (
            each.priority(evidence_for(each, plan, seed, observed=observed))
            for each in (selection_for(policy), selection_for(policy))
        )
        assert one.shape == (len(plan),)
        assert np.isfinite(one).all()
        assert one.tolist() == other.tolist()
        assert len(set(one[plan.prefix_tokens :])) > 1, "it tells tokens apart"


@every_selection
def test_what_the_plan_alone_shows_is_a_mark_for_each_token(selection: str) -> None:
    for seed in range(4):
        _, plan, _ = random_plan(seed, 10)
        marked = selection_for(ReusePolicy(selection=selection)).structural(plan)
        assert (marked.shape, marked.dtype) == ((len(plan),), bool)


@every_selection
def test_plan_and_evidence_stay_as_they_are(selection: str) -> None:
    _, plan, _ = random_plan(1, 10)
    chosen = selection_for(ReusePolicy(selection=selection))
    evidence, same = evidence_for(chosen, plan, 1), evidence_for(chosen, random_plan(1, 10)[1], 1)
    chosen.structural(plan)
    chosen.priority(evidence)
    for name in ("source", "reference", "position"):
        assert getattr(plan, name).tolist() == getattr(same.plan, name).tolist()
    for name in ("key_deviation", "value_deviation", "hot", "influence"):
        before, after = getattr(same, name), getattr(evidence, name)
        assert (before is None) == (after is None)
        assert before is None or before.tolist() == after.tolist()


# --- the prefill -------------------------------------------------------------------------------------------------


@every_selection
@pytest.mark.parametrize("prefix", [0, 25], ids=["cold", "prefix"])
def test_the_question_is_computed_and_the_prefix_never(selection: str, prefix: int) -> None:
    prefill = shared_prefill("llama")
    for seed in range(6):
        ids, plan, references = random_plan(seed, prefix)
        fresh_from = N - 1 - 3 * seed
        budget = Budget(0.1 + 0.1 * seed, fill=bool(seed % 2))
        policy = ReusePolicy(selection=selection, seed=seed)
        prefilled = selective(prefill, torch.as_tensor(ids), plan, references, policy, budget, fresh_from, N)
        must = forced(plan, fresh_from)
        assert prefilled.recomputed[must].all()
        assert prefilled.recomputed[-1]
        assert not prefilled.recomputed[:prefix].any()
        for layer, (keys, values) in zip(prefilled.cache.layers, references[0].rows, strict=True):
            assert torch.equal(layer.buffers[0][:, :, :prefix], keys[:, :, :prefix])
            assert torch.equal(layer.buffers[1][:, :, :prefix], values[:, :, :prefix])


@every_selection
@pytest.mark.parametrize("schedule", ["constant", "decay"])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.3, 0.5, 0.8, 1.0])
def test_the_ratio_is_kept(selection: str, schedule: str, ratio: float) -> None:
    """All computed rows, the first layer's and the last token's included; only forced tokens may exceed it.

    Strategies that rank by deviation compute the first layer in full before they know anything.
    """
    prefill = shared_prefill("llama")
    layers = prefill.n_layers
    for seed, prefix in ((1, 0), (2, 25)):
        ids, plan, references = random_plan(seed, prefix)
        policy = ReusePolicy(selection=selection, schedule=schedule)
        needs = selection_for(policy)
        prefilled = selective(
            prefill, torch.as_tensor(ids), plan, references, policy, Budget(ratio, fill=True), N - 4, N
        )
        assert prefilled.recomputed[forced(plan, N - 4)].all(), "in the deepest layer, too"
        must = int(forced(plan, N - 4)[:-1].sum())
        first = N - 1 - prefix if needs.needs_deviation else must
        watched = needs.watched_tokens * layers if needs.needs_hot else 0  # the tail, run once more for its attention
        allowed = max(ratio * N * layers - layers, first + (layers - 1) * must + watched)
        assert prefilled.layer_rows <= allowed + 1e-6
        if schedule == "constant":  # whole rows per layer: what is left over is less than one per layer
            assert prefilled.layer_rows > min(allowed, (N - 1 - prefix) * layers) - layers


@every_selection
@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5])
def test_nothing_need_be_left_to_recompute(selection: str, ratio: float) -> None:
    """All tokens served, no question: the budget may leave the deeper layers without any row."""
    prefill = shared_prefill("llama")
    ids = random_ids(N, 9)
    reference = reference_of(prefill.model, ids)
    plan = plan_of(N, reference)
    plan.serve(0, N, Source.MOVED, 0, 0)
    prefilled = selective(
        prefill,
        torch.as_tensor(ids),
        plan,
        [reference],
        ReusePolicy(selection=selection),
        Budget(ratio, fill=True),
        N - 1,
        N,
    )
    logits = reused_logits(prefill.model, prefilled, ids, N)
    assert_full(logits, prefill.model, ids)


@every_selection
@pytest.mark.parametrize("prefix", [0, 25], ids=["cold", "prefix"])
def test_everything_recomputed_is_the_full_prefill(selection: str, prefix: int) -> None:
    prefill = shared_prefill("llama")
    for seed in range(2):
        ids, plan, references = random_plan(seed, prefix)
        policy = ReusePolicy(selection=selection)
        budget = Budget(1.0, fill=True)
        prefilled = selective(prefill, torch.as_tensor(ids), plan, references, policy, budget, N - 4, N)
        assert prefilled.layer_rows == (N - 1 - prefix) * prefill.n_layers
        logits = reused_logits(prefill.model, prefilled, ids, N)
        assert_full(logits, prefill.model, ids)


@pytest.mark.parametrize("layers", [1, 2, 3])
@every_selection
def test_shallow_models(layers: int, selection: str) -> None:
    """Too few layers to measure in one and to choose for the others: every strategy still serves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2
        )
        model = placed(LlamaForCausalLM(config))
    prefill = SelectivePrefill(model, measure_spec(model))
    ids = random_ids(N, 10)
    reference = reference_of(model, ids)
    plan = plan_of(N, reference)
    plan.serve(0, N, Source.MOVED, 0, 0)
    for ratio in (0.2, 0.6, 1.0):
        policy = ReusePolicy(selection=selection)
        prefilled = selective(
            prefill, torch.as_tensor(ids), plan, [reference], policy, Budget(ratio, fill=True), N - 5, N
        )
        logits = reused_logits(model, prefilled, ids, N)
        assert_full(logits, model, ids)
