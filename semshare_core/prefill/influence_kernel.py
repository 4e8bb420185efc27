"""How much each row moves the outputs of the watched tokens, on a GPU: without the attention weights in memory.

The weights [heads, queries, keys] follow from the queries, the keys and the sums of the softmax, which the attention
has left. Each program recomputes them for a block of keys, and adds the layer's influence
(:func:`semshare_core.prefill.attention_probe.influence`) to that of the earlier layers.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from semshare_core.model.attention.row_kernel import LOG2_E, constants, strides

_KEYS = 32


@triton.jit(do_not_specialize=["times"])
def _add(
    query,
    key,
    value,
    sums,
    positions,
    total,
    n_keys,
    scale,
    window,
    times,
    query_head,
    query_row,
    key_head,
    key_row,
    value_head,
    value_row,
    ROWS: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WINDOWED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of keys, all heads; ``scale`` is for powers of two. What no query sees is left out: it may be much."""
    at = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    folded = tl.arange(0, QUERIES)
    row = folded // GROUP
    valid = row < ROWS
    position = tl.load(positions + row, mask=valid, other=-1).to(tl.int32)
    if tl.program_id(0) * KEYS <= tl.max(position, axis=0):
        dims = tl.arange(0, WIDTH)
        inside = dims < SIZE
        there = at < n_keys
        seen = valid[:, None] & (at[None, :] <= position[:, None]) & there[None, :]
        if WINDOWED:
            seen = seen & (at[None, :] > position[:, None] - window)
        mean = tl.zeros([KEYS], tl.float32)
        for kv_head in range(KV_HEADS):
            head = kv_head * GROUP + folded % GROUP
            q = tl.load(
                query + head[:, None] * query_head + row[:, None] * query_row + dims[None, :],
                mask=valid[:, None] & inside[None, :],
                other=0.0,
            )
            k = tl.load(
                key + kv_head * key_head + at[None, :] * key_row + dims[:, None],
                mask=there[None, :] & inside[:, None],
                other=0.0,
            )
            v = tl.load(
                value + kv_head * value_head + at[:, None] * value_row + dims[None, :],
                mask=there[:, None] & inside[None, :],
                other=0.0,
            ).to(tl.float32)
            logs = tl.load(sums + row * (KV_HEADS * GROUP) + head, mask=valid, other=0.0)
            scores = tl.dot(q, k, input_precision=PRECISION) * scale
            weights = tl.where(seen, tl.exp2(scores - logs[:, None]), 0.0)
            mean += tl.sum(weights * weights, axis=0) * tl.sum(v * v, axis=1)
        before = tl.load(total + at, mask=there, other=0.0)
        tl.store(total + at, before + times * tl.sqrt(mean / (ROWS * KV_HEADS * GROUP)), mask=there)


def add_influence(
    total: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sums: Tensor,
    positions: Tensor,
    scale: float,
    window: int | None = None,
    times: float = 1.0,
) -> None:
    """Add ``times`` a layer's influence to ``total`` float32 [n].

    Args:
        query: [1, heads, rows, head_dim]; ``key`` and ``value``: [1, kv_heads, n, head_dim].
        sums: the logarithm to base 2 of the softmax's sums, float32 [rows, heads].
        positions: int [rows], ascending.
        scale: of the products.
        window: the last so many keys are seen; None: all.
    """
    heads, rows = query.shape[1:3]
    kv_heads, n = key.shape[1:3]
    _add[(triton.cdiv(n, _KEYS),)](
        query,
        key,
        value,
        sums,
        positions,
        total,
        n,
        scale * LOG2_E,
        window or 0,
        times,
        *strides(query, key, value),
        ROWS=rows,
        KV_HEADS=kv_heads,
        QUERIES=max(16, triton.next_power_of_2(rows * (heads // kv_heads))),
        KEYS=_KEYS,
        **constants(query, key, window),
    )
