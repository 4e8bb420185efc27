"""What is kept of a call so that it can be compared with a full prefill later: its tokens and a copy of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.compress.live.compressed import CompressedCache
from semshare_core.model.autocast import Autocast
from semshare_core.quality.divergence import Divergence, Turn, divergence


@dataclass
class Replay:
    """One call, to be measured once: measuring appends to ``cache``.

    Attributes:
        ids: int64 [n], the prompt.
        answer: int64 [k], the first tokens of the answer; None where nothing was generated.
        cache: the rows that decoding began with, of all prompt tokens but the last.
        tokens: how many of the continuation are compared.
        weights: names what computed the rows (:class:`semshare_core.model.weights.Weights`): no others can be compared.
        autocast: what was on in the call.
    """

    ids: Tensor
    answer: Tensor | None
    cache: Cache
    tokens: int
    weights: str
    autocast: Autocast

    @classmethod
    def of(cls, ids: Tensor, answer: Sequence[int], cache: Cache, room: int, weights: str) -> Replay:
        """Keep what is needed of a call, in its thread.

        Args:
            cache: what decoding began with and may have appended to, which is copied; or a compressed one that nothing
                was appended to, which becomes the replay's own.
            room: tokens that the model has positions for behind the prompt, at least 1.
            weights: names what computed the rows.
        """
        if not isinstance(cache, CompressedCache):
            cache = Cache(layers=[_copied(layer, len(ids) - 1) for layer in cache.layers])
        answered = torch.tensor(answer[:MEASURED_TOKENS], device=ids.device) if answer else None
        return cls(ids, answered, cache, min(MEASURED_TOKENS, room), weights, Autocast.here())

    def measure(self, model: PreTrainedModel, turn: Turn) -> Divergence:
        """The divergence along the answer, or along the full prefill's greedy continuation where there is none."""
        stepwise = isinstance(self.cache, CompressedCache)
        return divergence(
            model, self.ids, self.cache, answer=self.answer, tokens=self.tokens, stepwise=stepwise, turn=turn
        )


def _copied(layer: CacheLayerMixin, rows: int) -> DynamicLayer:
    """A layer with copies of the first ``rows``."""
    assert isinstance(layer.keys, Tensor)
    assert isinstance(layer.values, Tensor)
    copied = DynamicLayer()
    copied.update(layer.keys[:, :, :rows].clone(), layer.values[:, :, :rows].clone())
    return copied
