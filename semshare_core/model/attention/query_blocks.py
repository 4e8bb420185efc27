"""Attend in blocks of queries, each over the keys up to its own last row only.

Chosen rows lie all over the prompt, so one call of a fused kernel computes every query against all keys, and the mask
removes half of the products again. Split by query, a block stops at its last row's key: about half of the work, and the
same sums. A ``TorchFunctionMode`` does this to every ``scaled_dot_product_attention`` of the calling thread, so no
model's attention has to be rewritten. Models with eager attention never call it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

BLOCK_ROWS = 64
_MIN_VISIBLE = 1024  # below, a call costs more than the products it saves
_LARGE_ROWS = 192  # from here on PyTorch's kernel takes 64 queries at a time instead of 32, which threads share better:
_LARGE_COST = 0.84  # time per product with two threads, of that in smaller blocks; one thread gains nothing


def query_blocks(parts: Iterable[Tensor], visible: int, block: int = 1) -> AbstractContextManager[Any]:
    """Within the context masked attention of the given rows is split, where that saves anything.

    Args:
        parts: ascending query positions, one tensor per distinct set. A call is recognised by its number of queries.
        visible: keys that the last row of a call may see.
        block: keys that are only seen together (:mod:`semshare_core.model.attention.bit_blocks`).
    """
    blocks: dict[int, list[tuple[int, int, int]]] = {}
    for rows in parts if visible >= _MIN_VISIBLE else ():
        if len(rows) > BLOCK_ROWS and len(rows) not in blocks:
            blocks[len(rows)] = _blocks(rows)
    if not blocks:
        return nullcontext()  # the mode sees every operation, which costs
    return _QueryBlocks(blocks, visible, block)


class _QueryBlocks(TorchFunctionMode):
    """Splits each attention over ``visible`` keys whose number of queries is in ``blocks``."""

    def __init__(self, blocks: dict[int, list[tuple[int, int, int]]], visible: int, block: int) -> None:
        super().__init__()
        self._visible = visible
        self._block = block
        self._blocks = blocks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention and len(args) == 3 and isinstance(kwargs.get("attn_mask"), Tensor):
            blocks = self._blocks.get(args[0].shape[2])
            if blocks is not None and args[1].shape[2] == self._visible:
                return self._attend(*args, blocks, **kwargs)
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        blocks: list[tuple[int, int, int]],
        attn_mask: Tensor,
        **options: Any,
    ) -> Tensor:
        output = []
        for start, end, last in blocks:
            visible = min(self._visible, -(-last // self._block) * self._block)
            # grouped heads stay apart: each is work of its own for a thread, and all read one small mask
            mask = attn_mask[:, :, start:end, :visible]
            keys, values = key[:, :, :visible], value[:, :, :visible]
            output.append(scaled_dot_product_attention(query[:, :, start:end], keys, values, attn_mask=mask, **options))
        return torch.cat(output, dim=2)


def _blocks(rows: Tensor) -> list[tuple[int, int, int]]:
    """(first query, end, keys that they see) per block. Neighbours are joined where several threads gain by it.

    A joined block sees all keys up to its last row, so blocks that lie far apart are not joined.
    """
    ends = [*range(BLOCK_ROWS, len(rows), BLOCK_ROWS), len(rows)]
    starts, visible = [0, *ends[:-1]], (rows[torch.tensor(ends, device=rows.device) - 1] + 1).tolist()
    joins = torch.get_num_threads() > 1
    best: list[tuple[float, list[tuple[int, int, int]]]] = [(0.0, [])]  # cost and blocks up to each end
    for last, end in enumerate(ends):
        ways = []
        for first in range(last + 1) if joins else (last,):
            size = end - starts[first]
            if first == last or size >= _LARGE_ROWS:
                cost = size * visible[last] * (_LARGE_COST if size >= _LARGE_ROWS else 1.0)
                before, blocks = best[first]
                ways.append((before + cost, [*blocks, (starts[first], end, visible[last])]))
        best.append(min(ways))
    return best[-1][1]
