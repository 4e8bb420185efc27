"""Attention by the rows' positions instead of a mask: where a kernel for it runs, models call it by this name.

The prefill says which rows a layer computes, and gives the layer a *marker* in the mask's place. A model that hands the
marker on to its attention, and asks for nothing else there (a bias, a cap), can attend by rows: that is tried out once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.attention.switched import register, switchable

NAME = "semshare_rows"
WIDEST = 256
"""The largest head size that the kernel has room for."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Watch = Callable[[int, Tensor, Tensor, Tensor, Tensor, float], None]
"""Gets a layer's number, query, key, value, the logarithms of its softmax's sums, and the scale of its products."""


class Chosen(threading.local):
    """What the layer that runs now attends by.

    Attributes:
        marker: stands in the mask's place; None: no layer attends by rows.
        rows: int [queries], the positions of the queries.
        window: see :attr:`semshare_core.model.spec.ModelSpec.windows`.
        watch: is told of every attention; None: nobody watches.
        calls: how many attentions were computed by rows.
    """

    marker: Tensor | None = None
    rows: Tensor | None = None
    window: int | None = None
    watch: Watch | None = None
    calls: int = 0


chosen = Chosen()


def kernels_run(device: torch.device) -> bool:
    """Whether Triton's kernels run on ``device``."""
    return device.type == "cuda" and find_spec("triton") is not None


def can_attend_by_rows(model: PreTrainedModel) -> bool:
    """Whether to try it with ``model``: it attends by ``sdpa``, and looks that up when it runs."""
    plain = model.config._attn_implementation in ("sdpa", NAME) and model.dtype in _DTYPES
    return plain and kernels_run(model.device) and switchable(model)


def try_kernel(n_heads: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Run the kernel in blocks of every size; raises what the compiler or the card raises."""
    from semshare_core.model.attention.row_kernel import attend_rows

    for n_rows in (1, 8, 64, 2048):
        query = torch.zeros((1, n_heads, n_rows, size), dtype=dtype, device=device)
        key = torch.zeros((1, kv_heads, n_rows, size), dtype=dtype, device=device)
        attend_rows(query, key, key, torch.arange(n_rows, device=device), size**-0.5)


def attends_by_rows(model: PreTrainedModel) -> bool:
    """Whether ``model`` attends by rows just now."""
    return bool(model.config._attn_implementation == NAME)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """As ``sdpa_attention_forward``. With the marker: by the chosen rows."""
    if chosen.marker is None or attention_mask is not chosen.marker:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **extra)
    special = any(extra.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    if special or query.shape[0] > 1 or not key.shape[3] == value.shape[3] <= WIDEST:
        raise UnsupportedModelError(f"{type(module).__name__} asks for more than attention by rows can do.")
    from semshare_core.model.attention.row_kernel import attend_rows  # only here is Triton wanted

    assert chosen.rows is not None
    scale = query.shape[3] ** -0.5 if scaling is None else scaling
    output, sums = attend_rows(query, key, value, chosen.rows, scale, chosen.window)
    chosen.calls += 1
    if chosen.watch is not None:
        chosen.watch(getattr(module, "layer_idx", -1), query, key, value, sums, scale)
    return output, None


register(NAME, _attend)
