"""The rearranged reference cache (arXiv 2509.24832): lay reused rows at the positions where the target wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.prefill.anatomy import Anatomy
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.rotary import Rotation


class ReferenceRows(Protocol):
    """What rearranging needs to know of a pooled prompt: its keys and values per layer."""

    @property
    def id(self) -> str: ...

    @property
    def rows(self) -> Sequence[tuple[Tensor, Tensor]]:
        """Per layer keys and values [1, kv_heads, tokens, head_dim]."""
        ...


@torch.no_grad()
def lay_rows(
    cache: MergedCache,
    anatomy: Anatomy,
    plan: ReusePlan,
    references: Sequence[ReferenceRows],
    wanted: NDArray[np.bool_],
    *,
    zero_fuzzy: bool = False,
) -> None:
    """Fill the cache's rows where ``wanted`` [n] holds and the plan serves the token, straight from the references.

    Keys are turned to their new positions in float32; where the position does not change they stay bit for bit.
    ``zero_fuzzy`` writes zeros for fuzzy tokens (the paper's ablation).
    """
    by_id = {reference.id: reference for reference in references}
    moves = []
    for number, name in enumerate(plan.reference_ids):
        serves = wanted & (plan.reference == number)
        if serves.any():
            moves.append(_Move(by_id[name].rows, np.flatnonzero(serves), plan.position[serves]))
    zero = np.flatnonzero(wanted & (plan.source == Source.FUZZY)) if zero_fuzzy else np.empty(0, np.int64)
    for layer_index, layer in enumerate(cache.layers):
        for move in moves:
            keys, values = move.rows[layer_index]
            if not layer.is_initialized:
                layer.allocate(keys, values)
            move.lay(layer.buffers, keys, values, anatomy.rotations[layer_index])
        if zero.size:
            for buffer in layer.buffers:
                buffer.index_fill_(2, to_torch(zero, buffer.device), 0)


class _Move:
    """The rows that one reference serves, with the turns that all layers share."""

    def __init__(
        self, rows: Sequence[tuple[Tensor, Tensor]], target: NDArray[np.int64], position: NDArray[np.int64]
    ) -> None:
        self.rows = rows
        device = rows[0][0].device
        shift = target - position
        self._target, self._position = to_torch(target, device), to_torch(position, device)
        self._shift = to_torch(shift, device) if shift.any() else None
        first, end = int(target[0]), int(target[-1]) + 1
        self._stretch = slice(first, end) if len(target) == end - first else None
        self._angles: dict[tuple[int, torch.device], tuple[Tensor, Tensor] | None] = {}

    def lay(self, buffers: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, rotation: Rotation) -> None:
        """Gather rows from ``keys`` and ``values``, turn the keys, and write both into ``buffers``."""
        for buffer, rows, turns in zip(buffers, (keys, values), (self._shift is not None, False), strict=True):
            if self._stretch is not None and buffer.device == rows.device:  # straight to where they belong
                laid = buffer[:, :, self._stretch]
                if self._shift is None:  # the usual prefix
                    laid.copy_(rows[:, :, self._stretch])
                else:
                    torch.index_select(rows, 2, self._position.to(rows.device), out=laid)
                if turns:
                    rotation.turn_(laid, self._angles_of(rotation, laid.device))
                continue
            gathered = rows.index_select(2, self._position.to(rows.device))
            if turns:
                rotation.turn_(gathered, self._angles_of(rotation, gathered.device))
            buffer.index_copy_(2, self._target.to(buffer.device), gathered.to(buffer.device))

    def _angles_of(self, rotation: Rotation, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """Angles are shared by all layers with the same frequencies."""
        assert self._shift is not None
        key = (id(rotation.frequencies), device)
        if key not in self._angles:
            self._angles[key] = rotation.angles(self._shift.to(device))
        return self._angles[key]
