"""SemShareKV's layer-wise retention (arXiv 2509.24832): decode on fewer rows.

The first layer keeps most rows, deeper layers exponentially fewer; hot tokens stay before cold ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from transformers.cache_utils import Cache

from semshare_core.baselines.semsharekv.selection import PaperSelection
from semshare_core.compress.live import LiveCompressor, LiveEvidence, RetainedLayer
from semshare_core.prefill.attention_probe import hot_tokens
from semshare_core.prefill.cache import to_torch
from semshare_core.select.base import HOT_MASS
from semshare_core.slots import LIVE_COMPRESSORS


@LIVE_COMPRESSORS.register("retention")
class Retention(LiveCompressor):
    """Which rows stay for decoding, by layer.

    Layer ``l`` keeps the share ``max(floor, first * decay**l)`` of its rows: first the *hot* tokens (the fewest that
    hold ``hot_mass`` of the attention of the last ``window`` prompt tokens), then the others by attention weighted
    with ``hot_weight`` and ``cold_weight``. The last ``window`` rows always stay.

    Attributes:
        first: share kept in the first layer (the paper: at least 0.8).
        decay: factor from one layer to the next (exponential decay; the value is not published, ours gives about
            half of the rows over 30 layers).
        floor: no layer keeps a smaller share.
        hot_mass: share of attention that defines the hot set (the paper: 0.55).
        hot_weight: weight of hot tokens in the ranking (the paper: 0.5).
        cold_weight: weight of the other tokens (the paper: 0.1).
        window: number of last prompt tokens whose attention is observed.
    """

    first: float = Field(default=0.9, gt=0, le=1)
    decay: float = Field(default=0.96, gt=0, le=1)
    floor: float = Field(default=0.2, gt=0, le=1)
    hot_mass: float = Field(default=HOT_MASS, gt=0, le=1)
    hot_weight: float = Field(default=PaperSelection.hot_weight, gt=0)
    cold_weight: float = Field(default=PaperSelection.cold_weight, gt=0)
    window: int = Field(default=16, ge=1)

    @classmethod
    def keeping_all(cls) -> Retention:
        return cls(first=1.0, decay=1.0)

    @torch.no_grad()
    def compress(self, cache: Cache, evidence: LiveEvidence) -> Cache:
        layers = []
        attention = evidence.attention(self.window)
        for layer, seen, share in zip(cache.layers, attention, layer_shares(len(cache.layers), self), strict=True):
            keys, values = layer.keys, layer.values
            rows = to_torch(kept_rows(seen, float(share), self), keys.device)
            dropped = keys.shape[2] - len(rows)
            layers.append(RetainedLayer(keys.index_select(2, rows), values.index_select(2, rows), dropped))
        return Cache(layers=layers)


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
