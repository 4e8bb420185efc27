"""A trial run when the engine is made. It shows whether the model's code can compute chosen rows.

It computes a short prompt in parts, with fewer rows in deeper layers, and compares the rows with those of one plain
pass. Then it watches the attention of the last tokens.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.grouped import grouped_attention
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import ModelSpec
from semshare_core.model.support import vocabulary_size
from semshare_core.prefill.attention_probe import Unobserved, mean_attention, watch_tail
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.forward import RowForward

_TOKENS, _FIRST_PART, _WATCHED = 12, 7, 3
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOW_PRECISION = 0.25  # a narrow choice between two experts may change; a wrong mask or position is off by about 1


@torch.no_grad()
def try_out(model: PreTrainedModel, spec: ModelSpec) -> ModelSpec:
    """Try the model out. Returns ``spec`` with the measured ``observable``.

    Warns:
        UserWarning: the model's attention cannot be watched.

    Raises:
        UnsupportedModelError: rows computed in parts differ from those of a plain pass.
    """
    ids = torch.arange(_TOKENS, device=model.device) % vocabulary_size(model)
    n_layers = len(spec.layers)
    plain = DynamicCache()
    model(input_ids=ids[None], **with_cache(model, plain), use_cache=True)
    cache = MergedCache(n_layers, _TOKENS)
    everything = np.arange(_TOKENS)
    deeper = everything[1::2]
    try:
        with grouped_attention(model, rows=spec.by_rows):
            forward = RowForward(model, spec, chunk_rows=_FIRST_PART)
            forward.run(cache, ids, [everything] * n_layers)
            forward.run(cache, ids, [everything, *[deeper] * (n_layers - 1)])
        cache.finish(_TOKENS)
    except Exception as error:  # the model's own code may fail in any way
        raise UnsupportedModelError(
            f"{model.config.model_type} cannot be served: computing chosen rows of a prompt failed "
            f"({type(error).__name__}: {error})."
        ) from error
    for layer, (ours, theirs) in enumerate(zip(cache.layers, plain.layers, strict=True)):
        for row, expected in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
            if _differ(row, expected):
                raise UnsupportedModelError(
                    f"{model.config.model_type} cannot be served: rows computed in parts are not those of one pass "
                    f"(layer {layer}), so its layers read more than their rows, mask and positions."
                )
    if n_layers == 1:  # the pass ends before the only layer computes attention
        return replace(spec, observable=False)
    try:
        watch_tail(model, spec, cache, ids, _TOKENS, _WATCHED, mean_attention)
    except Unobserved as error:
        warnings.warn(
            f"{error} Approximate reuse of this model recomputes by the plan alone, which takes more rows for the "
            "same answers, and compressors that watch them are refused; attn_implementation='eager' may show the "
            "weights.",
            stacklevel=4,
        )
        return replace(spec, observable=False)
    return spec


def _differ(ours: Tensor | None, theirs: Tensor | None) -> bool:
    assert ours is not None
    assert theirs is not None
    error = (ours.float() - theirs.float()).norm() / theirs.float().norm().clamp_min(1e-12)
    return not bool(error <= _TOLERANCE.get(theirs.dtype, _LOW_PRECISION))
