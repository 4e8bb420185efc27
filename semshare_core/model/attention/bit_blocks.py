"""Split a prompt so that its rows have the same bits as in one pass over the whole prompt.

PyTorch's fused attention on the CPU sums over the keys in blocks of 512, and sums a last block of fewer keys in another
order. In float32 this changes the last of 24 bits, which changes no answer. bfloat16 and float16 round to 8 or 11 bits
after every operation: there one row in hundreds differs, and after some layers all do. So a row has the bits of any
longer prompt's pass only if its block was whole when the row was computed. That excludes the last block of a prompt,
and an answer, which is computed token by token. Matrix products do not depend on how many rows are computed at once
(measured: x86 with AVX-512).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

_KEYS = 512


def block_of(model: PreTrainedModel) -> int:
    """Keys in a block; 1 where bits do not depend on blocks, as far as is known. The thread's autocast counts."""
    low = model.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu")
    return _KEYS if low and model.device.type == "cpu" else 1


def whole_blocks(keys: int, block: int) -> int:
    """How many of ``keys`` stand in whole blocks: of 1300 keys in blocks of 512, 1024."""
    return keys // block * block


def passes(start: int, end: int, block: int, longest: int) -> list[range]:
    """Rows from ``start`` to ``end`` in passes that end with a block, of at most ``longest`` rows or one block."""
    if block > 1:
        longest = max(block, whole_blocks(longest, block))
    ends = [*range(whole_blocks(start, block) + longest, end, longest), end]
    return [range(begin, stop) for begin, stop in zip([start, *ends], ends, strict=False) if begin < stop]
