"""Lay reused rows on a GPU: gather, rotate and scatter in one launch for all layers.

Step by step a layer takes some ten small operations for each stretch of rows, thousands for a prompt of moved
passages, and an operation costs the processor longer than the card. Here each program copies a few rows of one head of
one layer. Tables say where: the addresses of the sources for each layer and move, and for each row its move, its place
there, its position, and its turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

Pair = tuple[Tensor, Tensor]

_ROWS = 16
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
DTYPES = frozenset(_TYPES)


@triton.jit(do_not_specialize=["n_rows", "n_moves"])
def _lay(
    sources,
    targets,
    rows,
    cos,
    sin,
    n_rows,
    n_moves,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    HALF: tl.constexpr,
    PAIRS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    DTYPE: tl.constexpr,
    BYTES: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some rows of one head. ``sources`` [layers, moves, 6] and ``targets`` [layers, 4]: addresses and strides."""
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    layer, head = tl.program_id(1), tl.program_id(2)
    valid = at < n_rows
    move = tl.load(rows + at, mask=valid, other=-1)
    local = tl.load(rows + n_rows + at, mask=valid, other=0)
    target = tl.load(rows + 2 * n_rows + at, mask=valid, other=0)
    turn = tl.load(rows + 3 * n_rows + at, mask=valid, other=-1)
    served = valid & (move >= 0)
    entry = sources + (layer.to(tl.int64) * n_moves + tl.where(served, move, 0)) * 6
    place = targets + layer * 4
    keys_at = tl.load(entry) + (head * tl.load(entry + 1) + local * tl.load(entry + 2)) * BYTES
    values_at = tl.load(entry + 3) + (head * tl.load(entry + 4) + local * tl.load(entry + 5)) * BYTES
    there = (head * tl.load(place + 2) + target * tl.load(place + 3)) * BYTES
    keys_to = tl.multiple_of((tl.load(place) + there).to(tl.pointer_type(DTYPE)), ALIGNED)
    values_to = tl.multiple_of((tl.load(place + 1) + there).to(tl.pointer_type(DTYPE)), ALIGNED)
    keys = tl.multiple_of(keys_at.to(tl.pointer_type(DTYPE)), ALIGNED)
    values = tl.multiple_of(values_at.to(tl.pointer_type(DTYPE)), ALIGNED)
    dims = tl.arange(0, WIDTH)
    inside = valid[:, None] & (dims < SIZE)[None, :]
    reads = served[:, None] & (dims < SIZE)[None, :]
    tl.store(
        values_to[:, None] + dims[None, :], tl.load(values[:, None] + dims[None, :], mask=reads, other=0.0), mask=inside
    )
    turned = served & (turn >= 0)
    plain = inside & ((dims >= 2 * HALF)[None, :] | (turned == 0)[:, None])
    kept = tl.load(keys[:, None] + dims[None, :], mask=plain & reads, other=0.0)
    tl.store(keys_to[:, None] + dims[None, :], kept, mask=plain)
    if HALF > 0:
        pair = tl.arange(0, PAIRS)
        first = pair * 2 if INTERLEAVED else pair
        second = first + (1 if INTERLEAVED else HALF)
        both = turned[:, None] & (pair < HALF)[None, :]
        angle = turn[:, None] * HALF + pair[None, :]
        c, s = tl.load(cos + angle, mask=both, other=1.0), tl.load(sin + angle, mask=both, other=0.0)
        a = tl.load(keys[:, None] + first[None, :], mask=both, other=0.0).to(tl.float32)
        b = tl.load(keys[:, None] + second[None, :], mask=both, other=0.0).to(tl.float32)
        tl.store(keys_to[:, None] + first[None, :], (a * c - b * s).to(DTYPE), mask=both)
        tl.store(keys_to[:, None] + second[None, :], (b * c + a * s).to(DTYPE), mask=both)


def lay_on_device(
    buffers: Sequence[Pair],
    sources: Sequence[Sequence[Pair]],
    rows: NDArray[np.int64],
    angles: tuple[Tensor, Tensor] | None,
    *,
    interleaved: bool,
) -> None:
    """Lay rows into the buffers of layers that turn their keys alike, all on one device.

    Args:
        buffers: of each layer keys and values [1, kv_heads, capacity, head_dim].
        sources: of each layer, and of each move, keys and values [1, kv_heads, any, head_dim].
        rows: int64 [4, m]: of each row the number of its move (-1: it gets zeros), its row there, its row in the
            buffers, and its row in ``angles`` (-1: its key keeps its bits).
        angles: cosines and sines float32 [any, rotary_dim / 2]; None: keys are not turned.
    """
    keys, _ = buffers[0]
    heads, size = keys.shape[1], keys.shape[3]
    table = np.array(
        [
            [(k.data_ptr(), k.stride(1), k.stride(2), v.data_ptr(), v.stride(1), v.stride(2)) for k, v in moves]
            for moves in sources
        ],
        dtype=np.int64,
    )
    places = np.array([(k.data_ptr(), v.data_ptr(), k.stride(1), k.stride(2)) for k, v in buffers], dtype=np.int64)
    aligned = not (table[..., ::3] % 16).any() and not (places[:, :2] % 16).any()
    strides = np.concatenate((table[..., 1:3].ravel(), table[..., 4:].ravel(), places[:, 2:].ravel()))
    aligned = aligned and not (strides * keys.element_size() % 16).any()
    on_device = _moved(np.concatenate((table.ravel(), places.ravel(), rows.ravel())), keys.device)
    sources_at, targets_at, rows_at = on_device.split([table.size, places.size, rows.size])
    half = 0 if angles is None else angles[0].shape[1]
    cos, sin = (keys, keys) if angles is None else angles
    n_rows = rows.shape[1]
    _lay[(triton.cdiv(n_rows, _ROWS), len(buffers), heads)](
        sources_at,
        targets_at,
        rows_at,
        cos,
        sin,
        n_rows,
        table.shape[1],
        SIZE=size,
        WIDTH=triton.next_power_of_2(size),
        HALF=half,
        PAIRS=triton.next_power_of_2(max(half, 1)),
        INTERLEAVED=interleaved,
        DTYPE=_TYPES[keys.dtype],
        BYTES=keys.element_size(),
        ALIGNED=16 if aligned else 1,
        ROWS=_ROWS,
        enable_fp_fusion=False,  # products are rounded, as they are step by step
    )


def _moved(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """``numbers`` on ``device``, copied without waiting for it."""
    there = torch.from_numpy(numbers)
    return there.to(device, non_blocking=True)
