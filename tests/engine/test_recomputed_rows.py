"""What a selective prefill touches and what it leaves alone, and that it keeps to the ratio asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.ablations import zero_rows
from semshare_core import ReusePolicy
from semshare_core.budget.recompute import Budget
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import examine
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.slots import SELECTIONS
from tiny_models import VOCAB
from tiny_reuse import (
    Reference,
    full_logits,
    plan_of,
    random_ids,
    reference_of,
    reused_logits,
    selective,
    shared_prefill,
)

pytestmark = pytest.mark.usefixtures("one_thread")

N = 90
SELECTION_NAMES = SELECTIONS.names()


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


@pytest.mark.parametrize("selection", SELECTION_NAMES)
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


@pytest.mark.parametrize("selection", ["combined", "non_exact", "seams", "random"])
def test_reused_rows_are_the_references(selection: str) -> None:
    """Values as they were, keys of tokens in place too; moved keys keep their length (they are only turned).

    The first two layers may have been measured, which leaves fresh rows there.
    """
    prefill = shared_prefill("llama")
    ids, plan, references = random_plan(3, 20)
    policy = ReusePolicy(selection=selection)
    prefilled = selective(prefill, torch.as_tensor(ids), plan, references, policy, Budget(0.35, fill=False), N - 4, N)
    reused = np.flatnonzero(~prefilled.recomputed)
    assert len(reused) > N / 3
    place = plan.position[reused]
    assert (place != reused).any()
    still = place == reused
    for layer, (keys, values) in zip(prefilled.cache.layers[2:], references[0].rows[2:], strict=True):
        assert torch.equal(layer.buffers[1][:, :, reused], values[:, :, place])
        laid, original = layer.buffers[0][:, :, reused], keys[:, :, place]
        assert torch.equal(laid[:, :, still], original[:, :, still])
        assert not torch.allclose(laid[:, :, ~still], original[:, :, ~still], atol=1e-2)
        torch.testing.assert_close(laid.norm(dim=-1), original.norm(dim=-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("selection", SELECTION_NAMES)
@pytest.mark.parametrize("schedule", ["constant", "decay"])
@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.3, 0.5, 0.8, 1.0])
def test_the_ratio_is_kept(selection: str, schedule: str, ratio: float) -> None:
    """All computed rows, the first layer's and the last token's included; only forced tokens may exceed it.

    Strategies that rank by deviation compute the first layer in full before they know anything.
    """
    prefill = shared_prefill("llama")
    layers = prefill.n_layers
    measuring = selection in ("deviation", "paper")
    for seed, prefix in ((1, 0), (2, 25)):
        ids, plan, references = random_plan(seed, prefix)
        policy = ReusePolicy(selection=selection, schedule=schedule)
        prefilled = selective(
            prefill, torch.as_tensor(ids), plan, references, policy, Budget(ratio, fill=True), N - 4, N
        )
        assert prefilled.recomputed[forced(plan, N - 4)].all(), "in the deepest layer, too"
        must = int(forced(plan, N - 4)[:-1].sum())
        first = N - 1 - prefix if measuring else must
        watched = 16 * layers if selection == "paper" else 0  # the tail, run once more for its attention
        allowed = max(ratio * N * layers - layers, first + (layers - 1) * must + watched)
        assert prefilled.layer_rows <= allowed + 1e-6
        if schedule == "constant":  # whole rows per layer: what is left over is less than one per layer
            assert prefilled.layer_rows > min(allowed, (N - 1 - prefix) * layers) - layers


def test_a_level_recomputes_what_is_worth_it_and_no_more() -> None:
    prefill = shared_prefill("llama")
    ids = random_ids(N, 7)
    other = ids.copy()
    other[40] ^= 1
    reference = reference_of(prefill.model, other)
    plan = plan_of(N, reference)
    plan.serve(0, N, Source.MOVED, 0, 0)
    plan.source[40] = Source.FUZZY
    policy = ReusePolicy(halo=3)
    prefilled = selective(prefill, torch.as_tensor(ids), plan, [reference], policy, Budget(0.9, fill=False), N - 5, N)
    assert np.flatnonzero(prefilled.recomputed).tolist() == [40, 41, 42, 43, *range(N - 5, N)]
    assert prefilled.layer_rows == (4 + 4) * prefill.n_layers


def test_a_first_token_that_was_not_first_is_computed() -> None:
    """It is the attention sink of every head; one that was first elsewhere, too, is right as it is."""
    prefill = shared_prefill("llama")
    ids = random_ids(N, 8)
    reference = reference_of(prefill.model, np.roll(ids, 30))
    for position, computed in ((30, True), (0, False)):
        plan = plan_of(N, reference)
        plan.serve(0, N - 30, Source.MOVED, 0, position)
        for fresh_from in (N - 4, 0):
            prefilled = selective(
                prefill,
                torch.as_tensor(ids),
                plan,
                [reference],
                ReusePolicy(selection="random"),
                Budget(0.0, fill=True),
                fresh_from,
                N,
            )
            assert prefilled.recomputed[0] == (computed or fresh_from == 0)


@pytest.mark.parametrize("selection", SELECTION_NAMES)
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
    torch.testing.assert_close(logits, full_logits(prefill.model, ids, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("selection", SELECTION_NAMES)
def test_shallow_models(layers: int, selection: str) -> None:
    """Too few layers to measure in one and to choose for the others: every strategy still serves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=2
        )
        model = LlamaForCausalLM(config).eval()
    prefill = SelectivePrefill(model, examine(model))
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
        torch.testing.assert_close(logits, full_logits(model, ids, 1), atol=1e-4, rtol=0)


def test_fuzzy_rows_can_be_left_empty() -> None:
    """The paper's ablation: zeros where a fuzzy match would stand, in keys that are turned, too."""
    prefill = shared_prefill("llama")
    ids, plan, references = random_plan(3, 20)
    policy = ReusePolicy(selection="random")
    with zero_rows():
        prefilled = selective(
            prefill, torch.as_tensor(ids), plan, references, policy, Budget(0.2, fill=False), N - 4, N
        )
    left = np.flatnonzero((plan.source == Source.FUZZY) & ~prefilled.recomputed)
    others = np.flatnonzero((plan.source == Source.MOVED) & ~prefilled.recomputed)
    assert len(left)
    for layer in prefilled.cache.layers:
        for buffer in layer.buffers:
            assert not buffer[:, :, left].any()
            assert buffer[:, :, others].any(dim=-1).all()
