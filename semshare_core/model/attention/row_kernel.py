"""Attention of chosen rows on a GPU, without a mask and without copies of grouped keys.

Row i sees the keys at positions 0 to ``positions[i]``. CUDA's fused kernels know two patterns without a mask: all keys,
and a triangle. Any other pattern needs a dense mask [rows, keys], leaves FlashAttention, and makes transformers repeat
keys and values for every query head. This kernel is FlashAttention (arXiv 2205.14135) with the positions in the mask's
place: a block of queries reads the keys up to its own last row, and the query heads of a group read them together.
Few rows leave most of the card idle, so their keys are divided among several programs (Flash-Decoding), and the parts
are joined by the sums of their softmax.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor, empty, float32

_BUSY = 256  # programs from which on keys are not divided further; an H100 has 132 multiprocessors
_LEAST_KEYS = 256  # of one part
LOG2_E = 1.4426950408889634  # kernels compute with powers of two
_BLOCK_BYTES = 16384  # of the keys of one block, of which a program's memory has several


@triton.jit(do_not_specialize=["n_rows"])
def _attend(
    query,
    key,
    value,
    output,
    sums,
    positions,
    n_rows,
    scale,
    window,
    query_head,
    query_row,
    key_head,
    key_row,
    value_head,
    value_row,
    output_part,
    output_row,
    sums_part,
    GROUP: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PARTS: tl.constexpr,
    WINDOWED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One block of queries of one key head over one part of the keys. ``scale`` is for powers of two."""
    kv_head, part = tl.program_id(1), tl.program_id(2)
    folded = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row, head = folded // GROUP, kv_head * GROUP + folded % GROUP
    valid = row < n_rows
    position = tl.load(positions + row, mask=valid, other=-1).to(tl.int32)
    dims = tl.arange(0, WIDTH)
    inside = dims < SIZE
    both = valid[:, None] & inside[None, :]
    q = tl.load(query + head[:, None] * query_head + row[:, None] * query_row + dims[None, :], mask=both, other=0.0)
    stop = tl.max(position, axis=0) + 1
    start = 0
    if WINDOWED:
        earliest = tl.min(tl.where(valid, position, stop), axis=0)
        start = tl.maximum(earliest - window + 1, 0) // KEYS * KEYS
    share = tl.cdiv(tl.cdiv(stop - start, PARTS), KEYS) * KEYS
    begin = start + part * share
    end = tl.minimum(begin + share, stop)
    key += kv_head.to(tl.int64) * key_head
    value += kv_head.to(tl.int64) * value_head
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    result = tl.zeros([QUERIES, WIDTH], tl.float32)
    for first in range(begin, end, KEYS):
        at = first + tl.arange(0, KEYS)
        there = at < end
        k = tl.load(key + at[None, :] * key_row + dims[:, None], mask=there[None, :] & inside[:, None], other=0.0)
        scores = tl.dot(q, k, input_precision=PRECISION) * scale
        seen = (at[None, :] <= position[:, None]) & there[None, :]
        if WINDOWED:
            seen = seen & (at[None, :] > position[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        safe = tl.where(higher == float("-inf"), 0.0, higher)  # a row may see none of the keys so far
        weights = tl.exp2(scores - safe[:, None])
        fade = tl.exp2(highest - safe)
        v = tl.load(value + at[:, None] * value_row + dims[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        total = total * fade + tl.sum(weights, axis=1)
        result = result * fade[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        highest = higher
    result = result / tl.where(total == 0.0, 1.0, total)[:, None]
    heads = tl.num_programs(1) * GROUP
    target = output + part.to(tl.int64) * output_part + row[:, None] * output_row + head[:, None] * SIZE + dims[None, :]
    tl.store(target, result.to(output.dtype.element_ty), mask=both)
    tl.store(sums + part * sums_part + row * heads + head, highest + tl.log2(total), mask=valid)


@triton.jit(do_not_specialize=["n_outputs"])
def _join(parts, sums, output, total, n_outputs, SIZE: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """One head of one row: the parts' outputs, each in proportion to the sums of its softmax."""
    this = tl.program_id(0)
    part = tl.arange(0, PARTS)
    dims = tl.arange(0, WIDTH)
    logs = tl.load(sums + part * n_outputs + this)
    highest = tl.max(logs, axis=0)
    weights = tl.exp2(logs - highest)
    whole = tl.sum(weights, axis=0)
    inside = (dims < SIZE)[None, :]
    at = (part.to(tl.int64) * n_outputs + this)[:, None] * SIZE + dims[None, :]
    outputs = tl.load(parts + at, mask=inside, other=0.0)
    result = tl.sum(outputs * weights[:, None], axis=0) / whole
    tl.store(output + this * SIZE + dims, result.to(output.dtype.element_ty), mask=dims < SIZE)
    tl.store(total + this, highest + tl.log2(whole))


def attend_rows(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, scale: float, window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Attention of rows at ``positions`` over the keys that stand before them, and themselves.

    Args:
        query: [1, heads, rows, head_dim]; ``key`` and ``value``: [1, kv_heads, n, head_dim], each row contiguous.
        positions: int [rows], ascending, all smaller than n. They may change between two replays of a CUDA graph.
        scale: of the products.
        window: the last so many keys are seen; None: all.

    Returns:
        The output [1, rows, heads, head_dim] and the logarithm to base 2 of the softmax's sums, float32 [rows, heads].
    """
    heads, rows, size = query.shape[1:]
    kv_heads = key.shape[1]
    group = heads // kv_heads
    assert query.stride(3) == key.stride(3) == value.stride(3) == positions.stride(0) == 1
    queries = (
        128 if rows * group >= 2048 and size <= 128 else 64 if rows * group > 32 else 32 if rows * group > 16 else 16
    )
    blocks = triton.cdiv(rows * group, queries)
    parts = _parts(blocks * kv_heads, key.shape[2])
    output = empty((parts, rows, heads, size), dtype=query.dtype if parts == 1 else float32, device=query.device)
    sums = empty((parts, rows, heads), dtype=float32, device=query.device)
    _attend[(blocks, kv_heads, parts)](
        query,
        key,
        value,
        output,
        sums,
        positions,
        rows,
        scale * LOG2_E,
        window or 0,
        *strides(query, key, value),
        output.stride(0),
        output.stride(1),
        sums.stride(0),
        QUERIES=queries,
        KEYS=max(16, min(64, _BLOCK_BYTES // (triton.next_power_of_2(size) * key.element_size()))),
        PARTS=parts,
        num_warps=8 if queries == 128 else 4,
        **constants(query, key, window),
    )
    if parts == 1:
        return output, sums[0]
    joined = empty((1, rows, heads, size), dtype=query.dtype, device=query.device)
    total = empty((rows, heads), dtype=float32, device=query.device)
    _join[(rows * heads,)](
        output,
        sums,
        joined,
        total,
        rows * heads,
        SIZE=size,
        WIDTH=triton.next_power_of_2(size),
        PARTS=parts,
        num_warps=1,
        enable_fp_fusion=True,
    )
    return joined, total


def strides(*tensors: Tensor) -> list[int]:
    """The strides of heads and of rows, of each tensor [1, heads, rows, head_dim]."""
    return [tensor.stride(dim) for tensor in tensors for dim in (1, 2)]


def constants(query: Tensor, key: Tensor, window: int | None) -> dict[str, Any]:
    """What a kernel that multiplies queries and keys [1, heads, any, head_dim] is compiled for."""
    size = query.shape[3]
    return {
        "GROUP": query.shape[1] // key.shape[1],
        "SIZE": size,
        "WIDTH": triton.next_power_of_2(size),
        "WINDOWED": window is not None,
        "PRECISION": "ieee" if query.dtype == float32 else "tf32",
        "enable_fp_fusion": True,
    }


def _parts(programs: int, keys: int) -> int:
    """Into how many parts the keys are divided: a power of two, so that few kernels are compiled."""
    parts = 1
    while programs * parts < _BUSY and keys // (2 * parts) >= _LEAST_KEYS and parts < 32:
        parts *= 2
    return parts
