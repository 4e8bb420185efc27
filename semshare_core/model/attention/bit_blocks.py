"""In which pieces a prompt may be computed so that its rows have the bits that one pass over all of it gives them.

PyTorch's fused attention on the CPU sums over the keys in blocks of 512, and a last block of fewer keys is summed in
another order. In float32 that moves the last of 24 bits, which chooses no other token. What is rounded to bfloat16 or
float16 behind every operation has 8 or 11: there one row in hundreds is another one, and after some layers all are. So
a row has the bits of any longer prompt's pass where the keys of its block were all there when it was computed: not in
the last block of a prompt, nor in an answer, which is computed token by token. Matrix products do not depend on how
many rows are computed at once (measured: x86 with AVX-512).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

_KEYS = 512


def block_of(model: PreTrainedModel) -> int:
    """Keys in a block, where bits depend on them in the calling thread; 1: they do not, or nothing is known of it."""
    low = model.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu")
    return _KEYS if low and model.device.type == "cpu" else 1


def whole_blocks(keys: int, block: int) -> int:
    """How many of ``keys`` stand in blocks that are whole."""
    return keys // block * block


def pieces(start: int, end: int, block: int, longest: int) -> list[range]:
    """Rows from ``start`` to ``end`` in pieces of at most ``longest`` that end with a block, if there are any."""
    if block > 1:
        longest = max(block, whole_blocks(longest, block))
    ends = [*range(whole_blocks(start, block) + longest, end, longest), end]
    return [range(begin, stop) for begin, stop in zip([start, *ends], ends, strict=False) if begin < stop]
