"""Masked grouped-query attention without a copy of the keys and values per query head.

With a mask transformers repeats keys and values for every query head, because CUDA's fused kernels take grouped heads
only without one. Behind a long cached prefix the copies cost more than the attention itself, so requests run with
another function in the place of transformers' own. The results are the same. The CPU's fused kernel takes both, which
the function here says. On a GPU a kernel attends by rows (:mod:`semshare_core.model.attention.by_rows`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from semshare_core.model.attention import by_rows
from semshare_core.model.attention.switched import config_switched, register, switchable, switched_attention

_NAME = "semshare_sdpa"


def uses_sdpa(model: PreTrainedModel) -> bool:
    """Whether the model's attention is PyTorch's fused one, ours included."""
    return model.config._attn_implementation in ("sdpa", _NAME, by_rows.NAME)


def grouped_attention(model: PreTrainedModel, *, rows: bool = False) -> AbstractContextManager[None]:
    """Within the context a model with ``sdpa`` attends without copies; other models are left as they are.

    ``rows``: the model can attend by rows (:attr:`semshare_core.model.spec.ModelSpec.by_rows`).
    """
    if rows and model.config._attn_implementation == "sdpa":  # the caller may have set another since
        return config_switched(model, by_rows.NAME)
    if model.config._attn_implementation != "sdpa" or model.device.type != "cpu" or not switchable(model):
        return nullcontext()
    return switched_attention(model, _NAME)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """As ``sdpa_attention_forward``: query [1, heads, q, head_dim], keys and values [1, kv_heads, n, head_dim]."""
    special = extra.get("position_bias") is not None or extra.get("softcap") is not None
    if attention_mask is None or query.shape[1] == key.shape[1] or query.shape[2] == 1 or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **extra)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


register(_NAME, _attend)
