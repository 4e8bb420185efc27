"""Watch the attention of a prompt's last tokens, for the methods that need it (hot tokens of SemShareKV).

The tail is run once more with attention that shows its weights; a handful of queries, so the weights are
[heads, tail, tokens] per layer and never tokens x tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from semshare_core.model.attention.grouped import uses_sdpa
from semshare_core.model.attention.switched import register, switchable, switched_attention
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.forward import RowForward

Reduce = Callable[[Tensor, Tensor], Tensor]
"""Of one layer: attention float32 [heads, queries, rows] and values [kv_heads, rows, dim] become [..., rows]."""

Collect = Callable[[int, Tensor], None]


class Unobserved(Exception):
    """The model's layers do not show their attention weights."""


@torch.no_grad()
def tail_attention(
    model: PreTrainedModel, spec: ModelSpec, cache: MergedCache, ids: Tensor, n_rows: int, window: int
) -> NDArray[np.float64]:
    """Attention that the last ``window`` of the first ``n_rows`` tokens pay to each of them: [layers, n_rows].

    Mean over heads and queries. The cache stays as it is.
    """
    return watch_tail(model, spec, cache, ids, n_rows, window, mean_attention)


@torch.no_grad()
def tail_influence(
    model: PreTrainedModel, spec: ModelSpec, cache: MergedCache, ids: Tensor, n_rows: int, window: int
) -> NDArray[np.float64]:
    """How much each row moves the outputs of the last ``window`` tokens: [n_rows].

    Attention times the norm of the value that it brings (root mean square over queries and heads), summed over layers.
    The cache stays as it is.
    """

    def reduce(weights: Tensor, values: Tensor) -> Tensor:
        norms = values.float().norm(dim=-1).repeat_interleave(weights.shape[0] // values.shape[0], dim=0)
        return (weights.pow(2).mean(dim=1) * norms.pow(2)).mean(dim=0).sqrt()

    return np.asarray(watch_tail(model, spec, cache, ids, n_rows, window, reduce).sum(axis=0))


def mean_attention(weights: Tensor, values: Tensor) -> Tensor:
    """Mean over heads and queries, [rows]."""
    return weights.mean(dim=(0, 1))


@torch.no_grad()
def watch_tail(
    model: PreTrainedModel,
    spec: ModelSpec,
    cache: MergedCache,
    ids: Tensor,
    n_rows: int,
    window: int,
    reduce: Reduce,
) -> NDArray[np.float64]:
    """What the last ``window`` of the first ``n_rows`` tokens attend to, reduced to [layers, ..., n_rows].

    They run once more for it. The cache stays as it is.
    """
    n_layers = len(spec.layers)
    tail = torch.arange(max(0, n_rows - window), n_rows, device=ids.device)
    seen: dict[int, Tensor] = {}

    def collect(layer: int, weights: Tensor) -> None:
        values = cache.layers[layer].buffers[1][0, :, :n_rows]
        seen[layer] = reduce(weights, values)

    if uses_sdpa(model) and not switchable(model):
        raise Unobserved(f"the attention of {type(model).__name__} is fixed and shows no weights.")
    with _kept(cache, slice(n_rows - len(tail), n_rows)), _weights_shown(model, spec, collect):
        RowForward(model, spec, chunk_rows=len(tail)).run(cache, ids, [tail] * n_layers)
    cache.finish(n_rows)
    if not seen or set(range(n_layers - 1)) - set(seen):
        raise Unobserved(f"only {len(seen)} of {n_layers} layers of {type(model).__name__} show attention weights.")
    # the pass ends when the last layer has its keys: that layer borrows what the one before saw
    return np.stack([seen.get(layer, seen[max(seen)]).cpu().double().numpy() for layer in range(n_layers)])


@contextmanager
def _kept(cache: MergedCache, rows: slice) -> Iterator[None]:
    """What stands in ``rows`` now stands there again afterwards."""
    for layer in cache.layers:
        layer.guard(rows)
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.restore()


def hot_tokens(attention: NDArray[np.float64], mass: float) -> NDArray[np.bool_]:
    """The fewest tokens that hold ``mass`` of ``attention`` [n]."""
    order = np.argsort(-attention, kind="stable")
    total = np.cumsum(attention[order])
    needed = int(np.searchsorted(total, mass * total[-1])) + 1
    hot = np.zeros(len(attention), bool)
    hot[order[:needed]] = True
    return hot


@contextmanager
def _weights_shown(model: PreTrainedModel, spec: ModelSpec, collect: Collect) -> Iterator[None]:
    """Hand over each layer's attention weights [heads, queries, keys] for the time of the context."""
    if not uses_sdpa(model):  # eager attention, which returns its weights
        with _returned_weights(spec, collect):
            yield
        return
    _collecting.layer = collect
    try:
        with switched_attention(model, _NAME):
            yield
    finally:
        del _collecting.layer


_NAME = "semshare_watch"
_collecting = threading.local()


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """As ``sdpa``, in the open: weights in float32, the query heads of a group together, no copies of the keys.

    Queries are scaled before the product, which float16 could not hold.
    """
    _, heads, queries, size = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    query = query * (size**-0.5 if scaling is None else scaling)
    scores = (query.reshape(kv_heads, -1, size) @ key[0].transpose(1, 2)).view(1, heads, queries, keys)
    weights = torch.softmax(scores.float() + attention_mask, dim=-1)
    if hasattr(module, "layer_idx"):
        _collecting.layer(module.layer_idx, weights[0])
    output = weights.to(value.dtype).view(kv_heads, -1, keys) @ value[0]
    return output.view(1, heads, queries, -1).transpose(1, 2).contiguous(), None


register(_NAME, _attend)


@contextmanager
def _returned_weights(spec: ModelSpec, collect: Collect) -> Iterator[None]:
    """Collect the weights [1, heads, queries, keys] that the layers' attention modules return."""
    handles = []

    def hook_for(layer: int) -> Any:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, tuple) and len(output) > 1 and isinstance(output[1], Tensor) and output[1].dim() == 4:
                collect(layer, output[1][0].float())

        return hook

    try:
        for index, layer in enumerate(spec.layers):
            for child in layer.children():
                handles.append(child.register_forward_hook(hook_for(index)))
        yield
    finally:
        for handle in handles:
            handle.remove()
