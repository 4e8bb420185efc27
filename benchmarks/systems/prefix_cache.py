"""transformers' own way to reuse: the cache of the longest common beginning is copied and continued."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from benchmarks.systems.answer import common_length
from benchmarks.systems.system import Prefilled, Subject, System
from semshare_core.model.cache_argument import with_cache


class PrefixCache(System):
    """Timed are the search for the longest common beginning, the copy of its rows, and the rest of the prompt.

    Its rows are prefilled before, as a server would have kept them. The last prompt token is always computed.
    """

    name = "prefix cache"

    @torch.no_grad()
    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        engine, ids = subject.engine, subject.base.ids
        references = [engine.token_ids(reference) for reference in subject.case.references]
        target = [int(token) for token in ids[0]]
        kept = DynamicCache(config=engine.model.config)
        known = _longest(references, target)
        if known:
            engine.model(input_ids=ids[:, :known], **with_cache(engine.model, kept), use_cache=True, logits_to_keep=1)

        @torch.no_grad()
        def call() -> Prefilled:
            started = time.perf_counter()
            known = _longest(references, target)
            cache = copy.deepcopy(kept)
            logits = prefill_rest(engine.model, cache, ids, known)
            seconds = time.perf_counter() - started
            ratio = 1 - known / ids.shape[1]
            return Prefilled(seconds, logits, cache, subject.full_kv_bytes, ratio, "prefix" if known else "miss")

        return call


def prefill_rest(model: PreTrainedModel, cache: Cache, ids: Tensor, known: int) -> Tensor:
    """The logits [vocabulary] behind ``ids``, int64 [1, n], whose first ``known`` rows the cache holds."""
    rows = with_cache(model, cache)
    logits = model(input_ids=ids[:, known:], use_cache=True, logits_to_keep=1, **rows).logits[0, -1]
    int(logits.argmax())  # wait for the device
    return cast(Tensor, logits)


def _longest(references: list[list[int]], target: list[int]) -> int:
    return max((common_length(reference, target[:-1]) for reference in references), default=0)
