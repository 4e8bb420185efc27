"""What the tests of the pool share: small entries whose rows tell which token they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semshare_core import PoolConfig
from semshare_core.pool import Entry, ReferencePool
from semshare_core.pool.disk import Fingerprint, PoolFolder
from tiny_models import DEVICE

BYTES_PER_TOKEN = 2 * 4  # keys and values of one layer, one head and one float32
DIM = 4
MODEL = Fingerprint({"model": "tests"})


def direction(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def entry(
    tokens: Iterable[int],
    namespace: str = "here",
    approximate: Iterable[bool] | bool = False,
    seed: int = 0,
    *,
    account: float = 0.05,
    pinned: bool = False,
) -> Entry:
    """An entry whose keys are its tokens and whose values are its positions. ``account``: of approximate rows."""
    ids = np.array(list(tokens), np.int64)
    keys, values = torch.as_tensor(ids).float(), torch.arange(len(ids)).float()
    rows = [(keys[None, None, :, None].clone().to(DEVICE), values[None, None, :, None].clone().to(DEVICE))]
    which = [approximate] * len(ids) if isinstance(approximate, bool | int) else list(approximate)
    flags = np.array(which, bool)
    account = account if flags.any() else 0.0
    return Entry.of_rows(namespace, ids, rows, flags, direction(seed), account=account, pinned=pinned)


def text(seed: int, n: int = 40) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1000, n).tolist()


def pool_of(tokens: int = 10_000, **config: object) -> ReferencePool:
    return ReferencePool(PoolConfig(max_bytes=tokens * BYTES_PER_TOKEN, **config), devices=[DEVICE])


def pool_at(path: Path, tokens: int = 10_000, *, read_only: bool = False, **config: object) -> ReferencePool:
    """A pool over a folder."""
    settings = PoolConfig(max_bytes=tokens * BYTES_PER_TOKEN, path=path, read_only=read_only, **config)
    return ReferencePool(settings, folder=PoolFolder(path, MODEL, read_only=read_only), devices=[DEVICE])


def rows_of(kept: Entry) -> list[tuple[Tensor, Tensor]]:
    """An entry's keys and values per layer, put together from its segments, on the CPU."""
    layers = range(kept.segments[0].rows.n_layers)
    parts = [[[each.cpu() for each in segment.rows.layer(layer)] for segment in kept.segments] for layer in layers]
    return [(torch.cat([k for k, _ in pairs], dim=2), torch.cat([v for _, v in pairs], dim=2)) for pairs in parts]


def holds(pool: ReferencePool, kept: Entry) -> bool:
    """True if the pool finds ``kept`` and its rows are those of its tokens."""
    found = pool.longest_prefix(kept.namespace, kept.tokens, math.inf)
    if found is None or found[0] is not kept or found[1] != len(kept):
        return False
    ((keys, values),) = rows_of(kept)
    assert keys.flatten().tolist() == kept.tokens.tolist()
    assert values.flatten().tolist() == list(range(len(kept)))
    return True


def books_balance(pool: ReferencePool) -> bool:
    """What the pool counts is what its entries hold."""
    segments = {segment for each in pool._entries.chosen(None) for segment in each.segments}
    used = pool._tiers.used
    for tier in ("device", "host"):
        assert used[tier] == sum(s.n_bytes for s in segments if s.tier == tier), tier
    on_disk = sum(s.n_bytes for s in segments if s.stored is not None)
    assert used["disk"] == on_disk + sum(s.n_bytes for s in pool._tiers._others.values())
    for name, space in pool._entries.namespaces.items():
        assert space.n_bytes == sum(s.n_bytes for s in segments if s.namespace == name)
        for each in space.entries.values():
            assert all(each.id in segment.holders for segment in each.segments)
            assert [s.start for s in each.segments] == [0, *np.cumsum([s.length for s in each.segments])[:-1].tolist()]
            assert each.segments[-1].end == len(each)
    return True
