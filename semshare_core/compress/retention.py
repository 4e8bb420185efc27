"""Layer-wise retention: decode on fewer rows (SemShareKV, arXiv 2509.24832).

The first layer keeps most rows, deeper layers exponentially fewer; hot tokens stay before cold ones. Every layer is
then of another length, which `generate()` accepts as long as a layer tells the *logical* length as its own: positions
go on counting tokens, attention sees the rows that are left.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from semshare_core.config import Retention
from semshare_core.prefill.attention_probe import hot_tokens
from semshare_core.prefill.cache import InterruptibleCache, MergedCache, to_torch


class RetainedLayer(DynamicLayer):
    """Some rows of a prompt, and everything appended since; ``dropped`` rows count but are gone."""

    def __init__(self, keys: Tensor, values: Tensor, dropped: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self.dropped = dropped

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] + self.dropped if isinstance(self.keys, Tensor) else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() - self.dropped + query_length, 0


def kept_rows(attention: NDArray[np.float64], share: float, retention: Retention) -> NDArray[np.int64]:
    """Rows to keep of one layer, ascending, given the attention [n] its last tokens pay them."""
    n = len(attention)
    weight = np.where(hot_tokens(attention, retention.hot_mass), retention.hot_weight, retention.cold_weight)
    score = attention * weight
    score[-retention.window :] = np.inf
    count = min(n, max(retention.window, int(np.ceil(share * n))))
    return np.sort(np.argsort(-score, kind="stable")[:count])


def layer_shares(n_layers: int, retention: Retention) -> NDArray[np.float64]:
    """Share of rows that each layer keeps, [n_layers]."""
    return np.maximum(retention.floor, retention.first * retention.decay ** np.arange(n_layers))


@torch.no_grad()
def retain(cache: MergedCache, attention: NDArray[np.float64], retention: Retention) -> InterruptibleCache:
    """A cache with the retained rows of ``cache``, given ``attention`` [layers, rows]; ``cache`` stays as it is."""
    layers = []
    for layer, seen, share in zip(cache.layers, attention, layer_shares(len(cache.layers), retention), strict=True):
        assert layer.keys is not None
        assert layer.values is not None
        rows = to_torch(kept_rows(seen, float(share), retention), layer.keys.device)
        layers.append(
            RetainedLayer(
                layer.keys.index_select(2, rows), layer.values.index_select(2, rows), layer.length - len(rows)
            )
        )
    return InterruptibleCache(layers, cache.interrupt)
