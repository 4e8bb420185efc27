"""Decoding steps as CUDA graphs: transformers' ``generate`` asks the model for a token, and a graph answers.

For the time of an answer ``model.forward`` is a function that knows what is computed already, and what a graph can
compute. Everything else goes on to the model's own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from semshare_core.model.cache_argument import with_cache
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.captured import CapturedPasses


@contextmanager
def captured_steps(model: PreTrainedModel, captured: CapturedPasses | None, cache: object) -> Iterator[None]:
    """Within the context ``model`` answers for ``cache`` by graphs, where they serve."""
    if captured is None or not isinstance(cache, MergedCache) or not captured.serves(cache, 1):
        yield
        return
    own = model.forward

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Any:
        ids = kwargs.get("input_ids")
        ours = not args and any(value is cache for value in kwargs.values()) and not captured.computing
        more = kwargs.get("output_attentions") or kwargs.get("output_hidden_states") or kwargs.get("labels") is not None
        if ours and not more and isinstance(ids, Tensor) and ids.shape == (1, 1):
            logits = _next_logits(captured, cache, ids)
            if logits is not None:
                return CausalLMOutputWithPast(logits=logits[None, None], **with_cache(model, cache))
        if ours:
            cache.ready = None  # of another token than the one that comes now
        return own(*args, **kwargs)

    before = model.__dict__.get("forward")
    model.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del model.__dict__["forward"]
        else:
            model.__dict__["forward"] = before


def _next_logits(captured: CapturedPasses, cache: MergedCache, ids: Tensor) -> Tensor | None:
    """The logits [vocabulary] behind the token ``ids`` [1, 1], whose row comes after those in ``cache``."""
    length = cache.layers[0].length
    ready = cache.take_ready()
    if ready is not None:
        return ready
    if not captured.serves(cache, 1) or length >= cache.layers[0].capacity:
        return None
    logits = captured.step(cache, ids[0], length)
    cache.finish(length + 1)
    return logits
