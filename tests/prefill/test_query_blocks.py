"""Attention in blocks of queries: the same sums, and neighbours joined where threads share larger blocks better."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from semshare_core.model.attention.query_blocks import BLOCK_ROWS, _blocks, query_blocks


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def cost(blocks: list[tuple[int, int, int]]) -> int:
    return sum((end - start) * visible for start, end, visible in blocks)


@given(st.lists(st.integers(0, 8000), min_size=1, max_size=700, unique=True))
def test_blocks_hold_all_queries_in_order_and_see_what_their_last_one_does(places: list[int]) -> None:
    rows = torch.tensor(sorted(places))
    blocks = _blocks(rows)
    assert [start for start, _, _ in blocks] == [0, *[end for _, end, _ in blocks[:-1]]]
    assert blocks[-1][1] == len(rows)
    for start, end, visible in blocks:
        assert visible == rows[end - 1] + 1
        assert end - start <= BLOCK_ROWS or end - start >= 192
    apart = [
        (at, min(at + BLOCK_ROWS, len(rows)), int(rows[min(at + BLOCK_ROWS, len(rows)) - 1]) + 1)
        for at in range(0, len(rows), BLOCK_ROWS)
    ]
    assert cost(blocks) <= cost(apart) / 0.84 + 1, "never more than the kernel gains"


def test_late_neighbours_are_joined_and_those_far_apart_are_not(threads: int) -> None:
    late = torch.arange(5000 - 256, 5000)
    assert len(_blocks(late)) == (4 if threads == 1 else 1)
    spread = torch.arange(256) * 30
    assert [end - start for start, end, _ in _blocks(spread)] == [BLOCK_ROWS] * 4


@pytest.mark.parametrize("rows", [torch.arange(1800, 2100), torch.arange(0, 2100, 7)], ids=["late", "spread"])
def test_the_sums_are_the_same(rows: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, count, 16, generator=generator) for heads, count in ((6, len(rows)), (2, 2100), (2, 2100))
    )
    mask = (torch.arange(2100) <= rows[:, None])[None, None]
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    with query_blocks([rows], 2100):
        found = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
