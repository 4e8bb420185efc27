"""What a selective prefill touches and what it leaves alone, and that it keeps to the ratio asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.ablations import zero_rows
from random_plans import N, random_plan
from same_answer import assert_close
from semshare_core import ReusePolicy
from semshare_core.budget.recompute import Budget
from semshare_core.match.plan import Source
from tiny_reuse import (
    plan_of,
    random_ids,
    reference_of,
    selective,
    shared_prefill,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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
        assert_close(laid.float().norm(dim=-1), original.float().norm(dim=-1))


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
