"""What tensors hold in memory: the storages that any living tensor is a view of, each counted once."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

Held = dict[int, int]


def held() -> Held:
    """Address and bytes of every storage that a living tensor stands on, dead cycles that await collection included.

    What ``gc.freeze()`` has set aside is not looked at.
    """
    storages = {}
    for found in gc.get_objects():
        if type(found) in (torch.Tensor, torch.nn.Parameter):
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return storages


def since(before: Held) -> Callable[[], int]:
    """Counts the bytes of the storages that are alive and were not in ``before``."""

    def bytes_now() -> int:
        return sum(size for address, size in held().items() if address not in before)

    return bytes_now


def live_rows() -> int:
    """Bytes of living tensors of four dimensions: keys and values, and what a layer makes of them while it runs."""
    storages = {}
    for found in gc.get_objects():
        if type(found) is torch.Tensor and found.dim() == 4:  # [1, kv_heads, tokens, head_dim]
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
