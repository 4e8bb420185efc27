"""From a prompt's whole cache to the compressed one that is decoded from."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core.compress.live.base import LiveCompressor, LiveEvidence
from semshare_core.config import ReusePolicy
from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.grouped import uses_sdpa
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.attention_probe import Reduce, Unobserved, watch_tail
from semshare_core.prefill.cache import InterruptibleCache, MergedCache
from semshare_core.process.interrupt import Interrupt


class CompressedCache(InterruptibleCache):
    """What a compressor left. After each forward pass the compressor may go on.

    Attributes:
        prompt_bytes: of all tensors when decoding begins.
    """

    def __init__(self, made: Cache, compressor: LiveCompressor, interrupt: Interrupt) -> None:
        super().__init__(made.layers, interrupt)
        self.prompt_bytes = held_bytes(made)
        self._compressor = compressor

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        seen = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == len(self.layers) - 1:
            self._compressor.step(self)
        return seen


def compressor_for(policy: ReusePolicy) -> LiveCompressor | None:
    """The compressor that ``policy`` asks for; None: all rows are kept."""
    assert policy.compress is None or isinstance(policy.compress, LiveCompressor)
    return policy.compress


def held_bytes(cache: Cache) -> int:
    """Bytes of all tensors that the layers hold."""
    values = (value for layer in cache.layers for value in vars(layer).values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def compressed(
    compressor: LiveCompressor, model: PreTrainedModel, spec: ModelSpec, ids: Tensor, cache: MergedCache
) -> CompressedCache:
    """What ``compressor`` leaves of ``cache``, the rows of the prompt ``ids`` [n] but the last; ``cache`` stays.

    Raises:
        UnsupportedModelError: the model cannot decode on it.
    """
    if any(spec.windows) or not uses_sdpa(model):
        raise _unsupported("layers of different lengths need attn_implementation='sdpa' and full attention in each")
    evidence = LiveEvidence(ids[:-1].cpu().numpy(), partial(_watch, model, spec, cache, ids))
    try:
        made = compressor.compress(cache, evidence)
    except Unobserved as error:
        raise _unsupported("the compressor watches attention weights, which this model does not show") from error
    return CompressedCache(made, compressor, cache.interrupt)


def _watch(
    model: PreTrainedModel, spec: ModelSpec, cache: MergedCache, ids: Tensor, window: int, reduce: Reduce
) -> NDArray[np.float64]:
    if not spec.observable:
        raise Unobserved(f"{type(model).__name__} shows no attention weights.")
    return watch_tail(model, spec, cache, ids, len(ids) - 1, window, reduce)


def _unsupported(why: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"this model's rows cannot be compressed for decoding: {why}. Set compress=None.")
