"""What tensors hold in memory: the storages that any living tensor is a view of, each counted once."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

Held = dict[int, int]


def held() -> Held:
    """Address and bytes of every storage that a living tensor stands on, dead cycles that await collection included."""
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
