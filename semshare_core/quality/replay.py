"""A copy of a call's tokens and rows, for a later comparison with a full prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.compress.live import RetainedLayer
from semshare_core.model.autocast import Autocast
from semshare_core.quality.divergence import Divergence, PassContext, divergence


@dataclass
class Replay:
    """One call. It can be measured once, because measuring appends to ``cache``.

    Attributes:
        ids: int64 [n], the prompt.
        answer: int64 [k], the first tokens of the answer. None if nothing was generated.
        cache: the rows with which decoding began: those of all prompt tokens but the last.
        tokens: how many tokens of the continuation are compared.
        weights: the identity of the weights that computed the rows (:class:`semshare_core.model.weights.Weights`).
        autocast: the call's autocast.
    """

    ids: Tensor
    answer: Tensor | None
    cache: Cache
    tokens: int
    weights: str
    autocast: Autocast

    @classmethod
    def of(cls, ids: Tensor, answer: Sequence[int], cache: Cache, room: int, weights: str) -> Replay:
        """Copy a call, in the call's thread. Decoding may have appended to ``cache``.

        Args:
            room: the number of tokens that fit after the prompt, at least 1.
            weights: the identity of the weights that computed the rows.
        """
        layers = []
        for layer in cache.layers:
            assert isinstance(layer.keys, Tensor)
            assert isinstance(layer.values, Tensor)
            rows = layer.keys.shape[2] - (layer.get_seq_length() - (len(ids) - 1))  # those of the answer stand behind
            dropped = len(ids) - 1 - rows
            layers.append(RetainedLayer(layer.keys[:, :, :rows].clone(), layer.values[:, :, :rows].clone(), dropped))
        answer_ids = torch.tensor(answer[:MEASURED_TOKENS], device=ids.device) if answer else None
        return cls(ids, answer_ids, Cache(layers=layers), min(MEASURED_TOKENS, room), weights, Autocast.here())

    def measure(self, model: PreTrainedModel, pass_context: PassContext) -> Divergence:
        """The divergence along the answer. Without an answer: along the full prefill's greedy continuation."""
        return divergence(
            model,
            self.ids,
            self.cache,
            answer=self.answer,
            tokens=self.tokens,
            stepwise=any(layer.dropped for layer in self.cache.layers),
            pass_context=pass_context,
        )
