"""Watch the attention of a prompt's last tokens, for the methods that need it.

The last tokens run once more with an attention that shows its weights. They are few, so the weights of a layer are
[heads, window, tokens] and never tokens x tokens.
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

from semshare_core.model.attention.by_rows import attends_by_rows
from semshare_core.model.attention.grouped import uses_sdpa
from semshare_core.model.attention.switched import config_switched, register, switchable, switched_attention
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.forward import RowForward

Reduce = Callable[[Tensor, Tensor], Tensor]
"""Reduces a layer's attention float32 [heads, queries, rows] and values [kv_heads, rows, dim] to [..., rows]."""

Collect = Callable[[int, Tensor], None]


class Unobserved(Exception):
    """The model's layers do not show their attention weights."""


def mean_attention(weights: Tensor, values: Tensor) -> Tensor:
    """A layer's mean attention to each row, [rows]: the mean over heads and queries."""
    return weights.mean(dim=(0, 1))


def influence(weights: Tensor, values: Tensor) -> Tensor:
    """A layer's influence of each row on the watched tokens' outputs, [rows].

    It is the attention times the norm of the value, as a root mean square over queries and heads.
    """
    norms = values.float().norm(dim=-1).repeat_interleave(weights.shape[0] // values.shape[0], dim=0)
    return (weights.pow(2).mean(dim=1) * norms.pow(2)).mean(dim=0).sqrt()


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
    """Attention of the last ``window`` of the first ``n_rows`` tokens, reduced to [layers, ..., n_rows].

    These tokens run once more. The cache does not change.
    """
    n_layers = len(spec.layers)
    tail = np.arange(max(0, n_rows - window), n_rows)
    seen: dict[int, Tensor] = {}

    def collect(layer: int, weights: Tensor) -> None:
        values = cache.layers[layer].buffers[1][0, :, :n_rows]
        seen[layer] = reduce(weights, values)

    if uses_sdpa(model) and not switchable(model):
        raise Unobserved(f"the attention of {type(model).__name__} is fixed and shows no weights.")
    with _restored(cache, slice(n_rows - len(tail), n_rows)), _weights_shown(model, spec, collect):
        RowForward(model, spec, chunk_rows=len(tail)).run(cache, ids, [tail] * n_layers)
    cache.finish(n_rows)
    if not seen or set(range(n_layers - 1)) - set(seen):
        raise Unobserved(f"only {len(seen)} of {n_layers} layers of {type(model).__name__} show attention weights.")
    # the pass ends when the last layer has its keys: that layer borrows the values of the layer before
    return np.stack([seen.get(layer, seen[max(seen)]).cpu().double().numpy() for layer in range(n_layers)])


@contextmanager
def _restored(cache: MergedCache, rows: slice) -> Iterator[None]:
    """Restore the present content of ``rows`` at the end of the context."""
    for layer in cache.layers:
        layer.guard(rows)
    try:
        yield
    finally:
        for layer in cache.layers:
            layer.restore()


def hot_tokens(attention: NDArray[np.float64], mass: float) -> NDArray[np.bool_]:
    """The fewest tokens that have the share ``mass`` of ``attention`` [n]."""
    order = np.argsort(-attention, kind="stable")
    total = np.cumsum(attention[order])
    needed = int(np.searchsorted(total, mass * total[-1])) + 1
    hot = np.zeros(len(attention), bool)
    hot[order[:needed]] = True
    return hot


@contextmanager
def _weights_shown(model: PreTrainedModel, spec: ModelSpec, collect: Collect) -> Iterator[None]:
    """Within the context, give each layer's attention weights [heads, queries, keys] to ``collect``."""
    if not uses_sdpa(model):  # eager attention returns its weights
        with _returned_weights(spec, collect):
            yield
        return
    _collecting.layer = collect
    try:
        switched = config_switched if attends_by_rows(model) else switched_attention
        with switched(model, _NAME):
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
    """The same as ``sdpa``, step by step: weights in float32, the query heads of a group together, no copies of keys.

    Queries are scaled before the product, because float16 could overflow.
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
