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
from semshare_core.compress.live.compressed import CompressedCache
from semshare_core.model.autocast import Autocast
from semshare_core.prefill.cache import InterruptibleCache
from semshare_core.quality.divergence import Divergence, PassContext, divergence
from semshare_core.quality.healing_claim import Claim


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
        claim: the call's entry in the pool, if the check is to heal it.
    """

    ids: Tensor
    answer: Tensor | None
    cache: Cache
    tokens: int
    weights: str
    autocast: Autocast
    claim: Claim | None = None

    @classmethod
    def of(cls, ids: Tensor, answer: Sequence[int], cache: Cache, room: int, weights: str) -> Replay:
        """Keep a call, in the call's thread.

        Args:
            cache: what decoding began with. It is copied, for decoding may have appended to it; a compressed one, to
                which nothing was appended, becomes the replay's own.
            room: the number of tokens that fit after the prompt, at least 1.
            weights: the identity of the weights that computed the rows.
        """
        if not isinstance(cache, CompressedCache):
            n_rows = len(ids) - 1
            pairs = [(layer.keys[:, :, :n_rows], layer.values[:, :, :n_rows]) for layer in cache.layers]
            cache = InterruptibleCache(
                layers=[RetainedLayer(keys.clone(), values.clone(), dropped=0) for keys, values in pairs]
            )
        answer_ids = torch.tensor(answer[:MEASURED_TOKENS], device=ids.device) if answer else None
        return cls(ids, answer_ids, cache, min(MEASURED_TOKENS, room), weights, Autocast.current())

    def measure(self, model: PreTrainedModel, pass_context: PassContext) -> Divergence:
        """The divergence along the answer. Without an answer: along the full prefill's greedy continuation."""
        claim, n_rows = self.claim, len(self.ids) - 1
        full = claim.prefix(n_rows, self.tokens, pass_context) if claim is not None else None
        measured = divergence(
            model,
            self.ids,
            self.cache,
            full=full,
            answer=self.answer,
            tokens=self.tokens,
            stepwise=isinstance(self.cache, CompressedCache),
            pass_context=pass_context,
        )
        if claim is not None and full is not None:
            claim.complete(pass_context)
        return measured

    def release(self) -> None:
        """The check is over, or there is none: the entry's healing is nobody's business any more."""
        if self.claim is not None:
            self.claim.release()
