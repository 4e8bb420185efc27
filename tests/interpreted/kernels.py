"""The kernels against the same step by step. Run by tests/prefill/test_on_a_gpu.py, in a process of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semshare_core.model.attention.row_kernel import attend_rows
from semshare_core.model.rotary import Rotation
from semshare_core.prefill.attention_probe import influence
from semshare_core.prefill.influence_kernel import add_influence
from semshare_core.prefill.lay_kernel import lay_on_device

KEYS = 700
LOG2_E = 1.4426950408889634

heads = pytest.mark.parametrize(("n_heads", "kv_heads", "size"), [(4, 2, 16), (6, 2, 24), (3, 3, 64)])
windows = pytest.mark.parametrize("window", [None, 24])
numbers_of_rows = pytest.mark.parametrize("rows", [1, 8, 70])


def made(
    n_heads: int, kv_heads: int, size: int, rows: int, dtype: torch.dtype = torch.float32, keys: int = KEYS
) -> tuple[Tensor, ...]:
    """Queries as models give them, and views of longer buffers of keys and values."""
    torch.manual_seed(rows)
    query = torch.randn(1, rows, n_heads, size).to(dtype).transpose(1, 2)
    key, value = (torch.randn(1, kv_heads, keys + 3, size).to(dtype)[:, :, :keys] for _ in range(2))
    positions = torch.sort(torch.randperm(keys)[:rows]).values
    return query, key, value, positions


def scores_of(query: Tensor, key: Tensor, positions: Tensor, window: int | None) -> Tensor:
    """Scaled products [heads, rows, keys], without those that are not seen."""
    group = query.shape[1] // key.shape[1]
    keys = torch.arange(key.shape[2])
    seen = keys[None] <= positions[:, None]
    if window is not None:
        seen &= keys[None] > positions[:, None] - window
    scores = query[0].float() @ key[0].float().repeat_interleave(group, 0).transpose(1, 2) * query.shape[3] ** -0.5
    return scores.masked_fill(~seen, float("-inf"))


@heads
@windows
@numbers_of_rows
def test_attention_by_rows_is_masked_attention(
    n_heads: int, kv_heads: int, size: int, window: int | None, rows: int
) -> None:
    query, key, value, positions = made(n_heads, kv_heads, size, rows)
    output, sums = attend_rows(query, key, value, positions, size**-0.5, window)
    scores = scores_of(query, key, positions, window)
    expected = scores.softmax(-1) @ value[0].repeat_interleave(n_heads // kv_heads, 0)
    torch.testing.assert_close(output, expected.transpose(0, 1)[None], atol=2e-6, rtol=0)
    torch.testing.assert_close(sums, scores.logsumexp(-1).T * LOG2_E, atol=1e-5, rtol=0)


def test_attention_of_so_many_rows_that_blocks_are_large() -> None:
    query, key, value, positions = made(4, 2, 16, 1030, keys=1100)
    output, _ = attend_rows(query, key, value, positions, 0.25)
    expected = scores_of(query, key, positions, None).softmax(-1) @ value[0].repeat_interleave(2, 0)
    torch.testing.assert_close(output, expected.transpose(0, 1)[None], atol=2e-6, rtol=0)


def test_attention_by_rows_in_half_precision() -> None:
    query, key, value, positions = made(4, 2, 16, 40, torch.float16)
    output, _ = attend_rows(query, key, value, positions, 0.25)
    expected = scores_of(query, key, positions, None).softmax(-1) @ value[0].float().repeat_interleave(2, 0)
    torch.testing.assert_close(output.float(), expected.transpose(0, 1)[None], atol=2e-3, rtol=0)


@heads
@windows
def test_influence_is_that_of_the_weights(n_heads: int, kv_heads: int, size: int, window: int | None) -> None:
    rows, spare = 8, 40
    query, key, value, _ = made(n_heads, kv_heads, size, rows)
    positions = torch.arange(KEYS - spare - rows, KEYS - spare)
    scale = size**-0.5
    _, sums = attend_rows(query, key, value, positions, scale, window)
    total = torch.ones(KEYS)
    add_influence(total, query, key, value, sums, positions, scale, window, times=2.0)
    expected = influence(scores_of(query, key, positions, window).softmax(-1), value[0])
    torch.testing.assert_close(total, 1 + 2 * expected, atol=1e-6, rtol=1e-5)
    assert (total[KEYS - spare :] == 1).all(), "nobody sees these"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("size", "turned", "interleaved"), [(16, 8, False), (24, 8, False), (24, 6, True), (16, 0, False), (10, 5, False)]
)
def test_rows_are_laid_as_step_by_step(dtype: torch.dtype, size: int, turned: int, interleaved: bool) -> None:
    rng = np.random.default_rng(size)
    torch.manual_seed(size)
    n_layers, kv_heads, capacity, n_rows = 3, 2, 60, 45
    buffers = [
        tuple(torch.full((1, kv_heads, capacity, size), 7.0).to(dtype) for _ in range(2)) for _ in range(n_layers)
    ]
    sources = [
        [tuple(torch.randn(1, kv_heads, 40 + move, size).to(dtype)[:, :, :40] for _ in range(2)) for move in range(3)]
        for _ in range(n_layers)
    ]
    shift = rng.integers(-30, 30, n_rows)
    shift[:5] = 0
    rows = np.stack(
        [
            rng.integers(-1, 3, n_rows),
            rng.integers(0, 40, n_rows),
            rng.permutation(capacity)[:n_rows],
            np.where(shift != 0, np.arange(n_rows), -1),
        ]
    ).astype(np.int64)
    rotation = Rotation(torch.rand(turned) if turned else None, interleaved)
    angles = rotation.angles(torch.from_numpy(shift))
    lay_on_device(buffers, sources, rows, angles, interleaved=interleaved)
    for layer, kind in np.ndindex(n_layers, 2):
        expected = torch.full((1, kv_heads, capacity, size), 7.0).to(dtype)
        for move, local, target, turn in rows.T:
            row = torch.zeros((kv_heads, 1, size), dtype=dtype)
            if move >= 0:
                row = sources[layer][move][kind][0, :, local, None].clone()
            if move >= 0 and kind == 0 and turn >= 0 and angles is not None:
                rotation.turn_(row, (angles[0][turn, None], angles[1][turn, None]))
            expected[0, :, target] = row[:, 0]
        torch.testing.assert_close(
            buffers[layer][kind], expected, atol=1e-3 if dtype == torch.float16 else 1e-6, rtol=0
        )
        if kind == 1:
            assert torch.equal(buffers[layer][kind], expected), "values are copied"
