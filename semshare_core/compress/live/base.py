"""What is kept of a prompt's rows for decoding. The pool keeps all of them, whatever is compressed for one answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from transformers.cache_utils import Cache

from semshare_core.config import Settings
from semshare_core.prefill.attention_probe import Reduce, mean_attention
from semshare_core.tokens import Tokens


@dataclass(frozen=True)
class LiveEvidence:
    """What a compressor may know of the prompt whose rows it is given.

    Attributes:
        tokens: int64 [n], the tokens whose rows are in the cache: all of the prompt but the last.
        watch: ``watch(window, reduce)`` runs the last ``window`` of these tokens once more, and gives what ``reduce``
            makes of the attention that they pay in each layer, float64 [layers, ..., n]. It costs their rows in every
            layer.
    """

    tokens: Tokens
    watch: Callable[[int, Reduce], NDArray[np.float64]]

    def attention(self, window: int) -> NDArray[np.float64]:
        """Attention that the last ``window`` tokens pay to each, [layers, n]: mean over heads and queries."""
        return self.watch(window, mean_attention)


class LiveCompressor(Settings, ABC):
    """Makes the cache to decode from smaller. Its fields are its settings; ``ReusePolicy(compress=...)`` takes it.

    One compressor serves many prompts: what it must remember of one belongs into the layers of that one's cache.
    """

    @classmethod
    @abstractmethod
    def keeping_all(cls) -> LiveCompressor:
        """Settings under which nothing is lost: decoding gives what it gives on the whole cache."""

    @abstractmethod
    def compress(self, cache: Cache, evidence: LiveEvidence) -> Cache:
        """What is left of ``cache``, in layers of its own: ``cache`` stays as it is, for the pool gets it.

        Args:
            cache: its layers' ``keys`` and ``values`` are [1, kv_heads, n, head_dim], keys rotated.

        Each layer must tell the *logical* length as ``get_seq_length`` and the rows that are left in
        ``get_mask_sizes``, as :class:`~semshare_core.compress.live.retained_layer.RetainedLayer` does.
        """

    def step(self, cache: Cache) -> None:
        """Go on while decoding: called after each forward pass with what :meth:`compress` made, grown by its tokens.

        The pass may still read the last layer's tensors: replace them, never write into them.
        """
