"""What is kept of a call so that it can be compared with a full prefill later: its tokens and a copy of its rows."""

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
        """Copy what is needed of a call, in its thread, whose ``cache`` decoding may have appended to.

        Args:
            room: tokens that the model has positions for behind the prompt, at least 1.
            weights: names what computed the rows.
        """
        layers = []
        for layer in cache.layers:
            assert isinstance(layer.keys, Tensor)
            assert isinstance(layer.values, Tensor)
            rows = layer.keys.shape[2] - (layer.get_seq_length() - (len(ids) - 1))  # those of the answer stand behind
            dropped = len(ids) - 1 - rows
            layers.append(RetainedLayer(layer.keys[:, :, :rows].clone(), layer.values[:, :, :rows].clone(), dropped))
        answered = torch.tensor(answer[:MEASURED_TOKENS], device=ids.device) if answer else None
        return cls(ids, answered, Cache(layers=layers), min(MEASURED_TOKENS, room), weights, Autocast.here())

    def measure(self, model: PreTrainedModel, turn: Turn) -> Divergence:
        """The divergence along the answer, or along the full prefill's greedy continuation where there is none."""
        thinned = any(layer.dropped for layer in self.cache.layers)
        return divergence(
            model, self.ids, self.cache, answer=self.answer, tokens=self.tokens, stepwise=thinned, turn=turn
        )
