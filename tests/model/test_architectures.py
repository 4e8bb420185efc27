"""Every architecture, with and without a cached prefix: reused rows that are right give the full prefill's logits.

Rows are right when they were computed in the same context. A reference that holds the target's text at later positions
is such a context too, because only the distances between tokens count: its rows must become the target's own when they
are moved. So whatever is recomputed beside them, in whatever layer, the logits stay those of the full prefill.
"""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch

from same_answer import assert_close, assert_full, assert_greedy, far_from_full, short_prefixes
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.budget.recompute import Budget
from semshare_core.config import Schedule
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.rearrange import lay_rows
from semshare_core.prefill.selective import Prefilled, SelectivePrefill
from semshare_core.slots import SELECTIONS
from tiny_models import SLIDING, SLIDING_WINDOW, TINY, VARYING_ROPE, tiny_model, tiny_tokenizer
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

N = 70
AFTER = 4
PREFIX = 21
SHIFT = 37
FIXED = [name for name in TINY if name not in VARYING_ROPE]

each_model = pytest.mark.parametrize("name", FIXED)
with_and_without_prefix = pytest.mark.parametrize("prefix", [0, PREFIX], ids=["cold", "prefix"])


def run(
    prefill: SelectivePrefill,
    ids: np.ndarray,
    plan: ReusePlan,
    references: list[Reference],
    ratio: float,
    **policy: Any,
) -> Prefilled:
    fresh_from = N - policy.pop("fresh_tail", 5)
    settings = ReusePolicy(recompute_ratio=ratio, **policy)
    return selective(
        prefill, torch.as_tensor(ids[:N]), plan, references, settings, Budget(ratio, fill=True), fresh_from, N + AFTER
    )


def assert_right(prefill: SelectivePrefill, prefilled: Prefilled, ids: np.ndarray) -> None:
    assert_full(reused_logits(prefill.model, prefilled, ids, N), prefill.model, ids)


@each_model
@with_and_without_prefix
@pytest.mark.parametrize("shift", [0, SHIFT], ids=["in place", "moved"])
def test_right_rows_give_the_full_prefill(name: str, prefix: int, shift: int) -> None:
    prefill = shared_prefill(name)
    ids = random_ids(N + AFTER, seed=1)
    same, moved = reference_of(prefill.model, ids[:N], "a"), reference_of(prefill.model, ids[:N], "b", offset=shift)
    rng = np.random.default_rng(2)
    for selection, schedule in product(SELECTIONS.names(), get_args(Schedule)):
        plan = plan_of(N, same, moved)
        plan.serve(prefix, N, Source.MOVED, 1, shift + prefix)
        plan.serve(0, prefix, Source.PREFIX, 0, 0)
        choice = {"selection": selection, "schedule": schedule, "seed": int(rng.integers(100)), "decay": 0.6}
        for tail, ratio in ((2, rng.uniform(0.25, 0.4)), (int(rng.integers(3, 20)), rng.uniform(0.4, 0.7))):
            prefilled = run(prefill, ids, plan, [same, moved], ratio, fresh_tail=tail, **choice)
            assert 0 < prefilled.layer_rows < (N - prefix - 1) * prefill.n_layers, "some rows are reused, some are not"
            assert_right(prefill, prefilled, ids)


@each_model
def test_moved_rows_that_are_not_turned_would_be_seen(name: str) -> None:
    """The tests above can fail: without the turn, the rows of all layers but ALiBi's answer otherwise."""
    prefill = shared_prefill(name)
    ids = random_ids(N + AFTER, seed=1)
    moved = reference_of(prefill.model, ids[:N], offset=SHIFT)
    shifted = Reference("a", ids[:N], [(keys[:, :, SHIFT:], values[:, :, SHIFT:]) for keys, values in moved.rows])
    plan = plan_of(N, shifted)
    plan.serve(0, N, Source.MOVED, 0, 0)
    logits = reused_logits(prefill.model, run(prefill, ids, plan, [shifted], 0.3), ids, N)
    assert (far_from_full(logits, prefill.model, ids) < 1) == (name == "mpt")


@each_model
@with_and_without_prefix
def test_ratio_one_is_the_full_prefill(name: str, prefix: int) -> None:
    prefill = shared_prefill(name)
    ids = random_ids(N + AFTER, seed=3)
    other = random_ids(N, seed=4)
    other[:prefix] = ids[:prefix]
    reference = reference_of(prefill.model, other)
    for selection in SELECTIONS.names():
        plan = plan_of(N, reference)
        plan.serve(0, N, Source.FUZZY, 0, 0)
        plan.serve(N // 2, N, Source.MOVED, 0, 3)  # plainly wrong
        plan.serve(0, prefix, Source.PREFIX, 0, 0)
        prefilled = run(prefill, ids, plan, [reference], 1.0, selection=selection)
        assert prefilled.layer_rows == (N - 1 - prefix) * prefill.n_layers
        assert_right(prefill, prefilled, ids)


@each_model
def test_first_layer_of_moved_rows_is_fresh(name: str) -> None:
    """Keys and values of layer 0 know only their own token: moved, they are the target's, whatever stood before."""
    prefill = shared_prefill(name)
    model = prefill.model
    text = random_ids(120, seed=5)
    ids = random_ids(80, seed=6)
    here, there, length = np.array([3, 40]), np.array([70, 1]), 30
    for target, position in zip(here, there, strict=True):
        ids[target : target + length] = text[position : position + length]
    reference, fresh = reference_of(model, text), reference_of(model, ids)
    plan = plan_of(len(ids), reference)
    for target, position in zip(here, there, strict=True):
        plan.serve(target, target + length, Source.MOVED, 0, position)
    cache = MergedCache(prefill.n_layers, len(ids))
    lay_rows(cache, prefill.spec, plan, [reference], plan.served)
    served = np.flatnonzero(plan.served)
    for laid, computed in zip(cache.layers[0].buffers, fresh.rows[0], strict=True):
        assert_close(laid[:, :, served], computed[:, :, served])


@pytest.mark.parametrize("name", SLIDING)
def test_sliding_windows_cut_prompts_that_are_longer(name: str) -> None:
    """The same model without its windows answers otherwise: the tests above are about prompts that they cut."""
    prefill = shared_prefill(name)
    assert SLIDING_WINDOW in prefill.spec.windows
    wide = tiny_model(name)
    wide.config.sliding_window = 10 * N
    for layer in wide.model.layers:
        if getattr(layer.self_attn, "sliding_window", None):
            layer.self_attn.sliding_window = 10 * N
    ids = random_ids(N, seed=1)
    assert (full_logits(wide, ids, 1) - full_logits(prefill.model, ids, 1)).abs().max() > 1e-2


@each_model
@with_and_without_prefix
def test_exact_answers_as_the_model_does(name: str, prefix: int) -> None:
    """Level exact: the tokens of ``model.generate``, next to a pool of texts that resemble the prompt."""
    model = tiny_model(name)
    engine = SemShareEngine(model, tiny_tokenizer())
    ids = random_ids(N, seed=7)
    near = ids.copy()
    near[max(prefix, 1) :: 9] += 1
    near[-1] ^= 1
    engine.warm([(near % 256).tolist()] if prefix else [np.roll(near % 256, 5).tolist()])
    answer = engine.generate(ids.tolist(), max_new_tokens=12, reuse="exact")
    assert_greedy(answer.token_ids, model, ids, 12)
    served = prefix if short_prefixes(model) else 0
    assert (answer.report.outcome, answer.report.prefix_tokens) == (("prefix", served) if served else ("miss", 0))


@each_model
def test_off_is_the_full_prefill(name: str) -> None:
    model = tiny_model(name)
    engine = SemShareEngine(model, tiny_tokenizer())
    ids = random_ids(N, seed=8)
    engine.warm([ids.tolist()])
    result = engine.prefill(ids.tolist(), reuse="off")
    assert_full(result.logits, model, ids)
    assert (result.report.outcome, result.report.new_tokens) == ("bypass", N)
