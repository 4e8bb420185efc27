"""Rows that must be fetched come layer by layer, while the layers before them run, and are laid as any others."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from same_answer import same_numbers
from semshare_core import ReusePolicy
from semshare_core.budget.recompute import Budget
from semshare_core.errors import DamagedFileError
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import measure_spec
from semshare_core.pool.entry import RowSpan
from semshare_core.pool.segment import MemoryRows
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.feed import LayerFeed
from semshare_core.prefill.rearrange import lay_rows
from semshare_core.prefill.selective import Prefilled, SelectivePrefill
from tiny_models import DEVICE, tiny_model
from tiny_reuse import Reference, plan_of, random_ids, reference_of, selective, shared_prefill

pytestmark = pytest.mark.usefixtures("one_thread")

N = 40


class FarRows(MemoryRows):
    """Rows that are not in memory; remembers which layers were read."""

    in_memory = False

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(pairs)
        self.read: list[int] = []

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        self.read.append(index)
        return super().layer(index)


class FarReference:
    """A reference in two spans, the second of which is far."""

    def __init__(self, near: Reference, split: int = 17) -> None:
        self.id, self.tokens = near.id, near.tokens
        self.far = FarRows([(keys[:, :, split:], values[:, :, split:]) for keys, values in near.rows])
        first = MemoryRows([(keys[:, :, :split], values[:, :, :split]) for keys, values in near.rows])
        self.spans = [RowSpan(0, split, first), RowSpan(split, N - split, self.far)]


def served(n: int, shift: int, reference: Reference | FarReference) -> ReusePlan:
    plan = plan_of(n, reference)
    plan.serve(max(0, shift), n - 1, Source.PREFIX if shift == 0 else Source.MOVED, 0, max(0, -shift))
    return plan


def prefilled(prefill: SelectivePrefill, ids: np.ndarray, reference: Reference | FarReference, way: str) -> Prefilled:
    plan = served(N, 0 if way == "prefix" else 3, reference)
    tokens = torch.as_tensor(ids, device=DEVICE)
    if way == "prefix":
        return prefill.prefill_suffix(tokens, plan, [reference], N)
    policy = ReusePolicy(recompute_ratio=0.3, selection=way)
    return selective(prefill, tokens, plan, [reference], policy, Budget(0.3, fill=True), N - 4, N)


@pytest.mark.parametrize("way", ["prefix", "combined", "deviation", "seams", "paper"])
@pytest.mark.parametrize("name", ["llama", "gemma3", "mpt"])
def test_far_rows_are_laid_as_near_ones(name: str, way: str) -> None:
    prefill = shared_prefill(name)
    ids = random_ids(N, seed=1)
    near = reference_of(prefill.model, ids)
    far = FarReference(near)
    expected, found = (prefilled(prefill, ids, reference, way) for reference in (near, far))
    for a, b in zip(expected.cache.layers, found.cache.layers, strict=True):
        for ours, theirs in zip(a.buffers, b.buffers, strict=True):
            assert same_numbers(ours[:, :, : N - 1], theirs[:, :, : N - 1])
    assert far.far.read == list(range(prefill.n_layers))


def test_the_next_layers_are_fetched_while_one_runs() -> None:
    """The first layer does not end before the second one's rows are there; nobody fetches the last at the beginning."""
    model = tiny_model("llama")
    prefill = SelectivePrefill(model, measure_spec(model))
    ids = random_ids(N, seed=1)
    near = reference_of(model, ids)
    far = FarReference(near)
    fetched = [threading.Event() for _ in near.rows]
    read = far.far.layer

    def layer(index: int) -> tuple[Tensor, Tensor]:
        pair = read(index)
        fetched[index].set()
        return pair

    far.far.layer = layer
    waited = []
    handle = model.model.layers[0].mlp.register_forward_hook(
        lambda *_: waited.append((fetched[1].wait(20), fetched[-1].is_set()))
    )
    try:
        prefilled(prefill, ids, far, "combined")
    finally:
        handle.remove()
    assert waited[0] == (True, False)


def test_a_feed_is_never_far_ahead() -> None:
    asked: list[int] = []
    feed = LayerFeed(lambda layer: asked.append(layer) or layer, 10)
    for layer in range(10):
        assert feed.take(layer) == layer
        assert max(asked) <= layer + 2
    assert asked == list(range(10))


def test_what_cannot_be_fetched_is_told_where_it_is_wanted() -> None:
    def fetch(layer: int) -> int:
        if layer == 3:
            raise DamagedFileError("layer 3 is damaged")
        return layer

    feed = LayerFeed(fetch, 6)
    assert [feed.take(layer) for layer in range(3)] == [0, 1, 2]
    with pytest.raises(DamagedFileError, match="layer 3"):
        feed.take(3)


def test_a_feed_that_is_given_up_leaves_nothing_running() -> None:
    before = threading.active_count()
    feed = LayerFeed(lambda layer: layer, 30)
    feed.take(0)
    gone = weakref.ref(feed)
    del feed
    gc.collect()
    assert gone() is None
    for thread in threading.enumerate():
        if thread.name.startswith("semshare-feed"):
            thread.join(10)
    assert threading.active_count() <= before


def test_layers_are_filled_when_they_are_looked_at_and_once() -> None:
    model = tiny_model("llama")
    ids = random_ids(N, seed=1)
    near = reference_of(model, ids)
    far = FarReference(near)
    cache = MergedCache(len(near.rows), N)
    plan = served(N, 0, far)
    lay_rows(cache, measure_spec(model), plan, [far], plan.served)
    cache.finish(N - 1)
    assert cache.get_seq_length() == N - 1
    for layer, (keys, values) in zip(cache.layers, near.rows, strict=True):
        assert torch.equal(layer.keys, keys[:, :, : N - 1])
        assert torch.equal(layer.values, values[:, :, : N - 1])
        layer.buffers[0][:, :, 0] = 0
        assert not layer.keys[:, :, 0].any()
    assert sorted(far.far.read) == list(range(len(near.rows)))
