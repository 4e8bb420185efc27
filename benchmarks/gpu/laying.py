"""Rows of a made-up model, wherever they lie, laid into a cache while made-up layers compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention.by_rows import kernels_run
from semshare_core.model.rotary import Rotation
from semshare_core.model.spec import ModelSpec
from semshare_core.pool.entry import RowSpan
from semshare_core.pool.segment import MemoryRows, Pair
from semshare_core.prefill import rearrange
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.feed import Copies

_SHIFT = 16  # tokens by which moved rows move
_LEFT_OUT = 0.15  # of moved rows, as many as are computed anew


@dataclass(frozen=True)
class Shape:
    """Of the model: layers, key heads, dimensions of a head, tokens that are laid; of its work: width, tokens."""

    layers: int = 32
    heads: int = 8
    dim: int = 128
    tokens: int = 8192
    width: int = 4096
    computed: int = 1024


TINY = Shape(layers=4, heads=2, dim=16, tokens=128, width=64, computed=16)


class HostRows(MemoryRows):
    """Rows that have to be fetched, also where the device is the CPU itself."""

    in_memory = False


@dataclass(frozen=True)
class Reference:
    """A prompt with rows of all its tokens."""

    id: str
    spans: Sequence[RowSpan]


def made_up_rows(shape: Shape, device: torch.device) -> list[Pair]:
    """Random keys and values [1, heads, tokens, dim] of every layer."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    size = (1, shape.heads, shape.tokens, shape.dim)
    return [
        (torch.randn(size, device=device, dtype=dtype), torch.randn(size, device=device, dtype=dtype))
        for _ in range(shape.layers)
    ]


def prefix(tokens: int) -> tuple[ReusePlan, NDArray[np.bool_]]:
    """All rows stay where they are."""
    plan = _empty(tokens)
    plan.serve(0, tokens, Source.PREFIX, 0, 0)
    return plan, plan.served


def moved(tokens: int) -> tuple[ReusePlan, NDArray[np.bool_]]:
    """All rows move by some tokens, and those of some tokens, here and there, are left out."""
    plan = _empty(tokens)
    plan.serve(_SHIFT, tokens, Source.MOVED, 0, 0)
    return plan, plan.served & (np.random.default_rng(0).random(tokens) >= _LEFT_OUT)


def _empty(tokens: int) -> ReusePlan:
    return ReusePlan(np.zeros(tokens, np.int8), np.full(tokens, -1), np.full(tokens, -1), ("reference",))


class Workload:
    """Layers that multiply, each ``times`` times, and the cache that is laid for them."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        layers: list[nn.Module] = [
            nn.Linear(shape.width, shape.width, bias=False, device=device, dtype=dtype) for _ in range(shape.layers)
        ]
        steps = torch.arange(0, shape.dim, 2, device=device) / shape.dim
        rotations = [Rotation(1.0 / 10000.0**steps)] * shape.layers
        self.spec = ModelSpec(
            layers, [None] * shape.layers, rotations, "additive", True, None, True, by_rows=kernels_run(device)
        )
        self.times = 1
        self._hidden = torch.randn((shape.computed, shape.width), device=device, dtype=dtype)

    def laid(self, rows: MemoryRows, plan: tuple[ReusePlan, NDArray[np.bool_]]) -> MergedCache:
        """A cache whose layers get the rows when they are first read."""
        cache = MergedCache(self.shape.layers, self.shape.tokens)
        span = RowSpan(0, self.shape.tokens, rows)
        rearrange.lay_rows(cache, self.spec, plan[0], [Reference("reference", [span])], plan[1])
        return cache

    @torch.no_grad()
    def run(self, cache: MergedCache | None, *, compute: bool = True) -> MergedCache | None:
        """Layer by layer: read the cache, if there is one, and compute."""
        for number, layer in enumerate(self.spec.layers):
            if cache is not None:
                _ = cache.layers[number].buffers
            for _ in range(self.times if compute else 0):
                layer(self._hidden)
        return cache

    @torch.no_grad()
    def straight(self, rows: Sequence[Pair], *, compute: bool = True) -> None:
        """As well as it can be done: all copies are queued in one other stream, and layers wait for theirs alone."""
        device = self.spec.devices[0]
        main = torch.accelerator.current_stream(device)
        side = torch.Stream(device)
        side.wait_stream(main)
        arrived, copies = [], []
        with side:
            for pair in rows:
                copies.append([tensor.to(device, non_blocking=True) for tensor in pair])
                arrived.append(side.record_event())
        for layer, event in zip(self.spec.layers, arrived, strict=True):
            main.wait_event(event)
            for _ in range(self.times if compute else 0):
                layer(self._hidden)
        torch.accelerator.synchronize(device)  # before the copies' memory goes


@contextmanager
def watched_copies() -> Iterator[Callable[[], str]]:
    """Within the context copies to the device are watched; the call tells what memory they came from."""
    pinned: list[bool] = []
    plain = Copies.carry

    def carry(self: Copies, rows: Tensor, picked: Tensor | slice) -> Tensor:
        pinned.append(rows.is_pinned())
        return plain(self, rows, picked)

    with patch.object(Copies, "carry", carry):
        yield lambda: f"{sum(pinned)} of {len(pinned)} copies came from pinned memory" if pinned else "no copies"


def same_rows(a: MergedCache, b: MergedCache, tokens: NDArray[np.bool_]) -> str:
    """How the rows of ``tokens`` in two caches differ: in no bit, by the rounding of a turn, or altogether."""
    largest = 0.0
    for ours, theirs in zip(a.layers, b.layers, strict=True):
        for mine, other in zip(ours.buffers, theirs.buffers, strict=True):
            kept = torch.as_tensor(np.flatnonzero(tokens), device=mine.device)
            apart = (mine.index_select(2, kept).float() - other.index_select(2, kept).float()).abs().max()
            largest = max(largest, float(apart / other.abs().max()))
    rounding = torch.finfo(a.layers[0].buffers[0].dtype).eps
    if largest == 0:
        return "the same rows"
    return f"{'the same rows but for rounding' if largest <= rounding else 'OTHER ROWS'} ({largest:.1e})"
