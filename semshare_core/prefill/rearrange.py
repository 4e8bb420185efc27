"""The rearranged reference cache (arXiv 2509.24832): lay reused rows at their positions in the target.

Rows come from several references and go straight into the cache, layer by layer. Rows in host memory or on disk are
fetched while the earlier layers run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention.by_rows import kernels_run
from semshare_core.model.rotary import Rotation
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.feed import Copies, LayerFeed

Pair = tuple[Tensor, Tensor]

_HOST = torch.device("cpu")


class Rows(Protocol):
    """Keys and values of consecutive tokens, in memory or on disk."""

    @property
    def in_memory(self) -> bool: ...

    def layer(self, index: int) -> Pair:
        """Keys and values [1, kv_heads, tokens, head_dim] of one layer."""
        ...

    def like(self, index: int) -> Pair:
        """Tensors with the layer's dtype, heads and sizes. Reads no rows."""
        ...

    def opened(self) -> Rows:
        """The same rows for several reads. Their file stays open while the result lives."""
        ...


class RowSpan(Protocol):
    """Consecutive rows of a pooled prompt, from its token ``start`` on."""

    @property
    def start(self) -> int: ...

    @property
    def length(self) -> int: ...

    @property
    def rows(self) -> Rows: ...


class ReferenceRows(Protocol):
    """The rows of a pooled prompt, in consecutive spans."""

    @property
    def id(self) -> str: ...

    @property
    def spans(self) -> Sequence[RowSpan]: ...


def lay_rows(
    cache: MergedCache,
    spec: ModelSpec,
    plan: ReusePlan,
    references: Sequence[ReferenceRows],
    tokens: NDArray[np.bool_],
    *,
    zero_new: bool = False,
) -> None:
    """Arrange that each layer of the cache gets the rows of ``tokens`` (bool [n]) that the plan serves.

    A layer is filled when somebody first reads it. Keys are rotated to their new positions in float32. A key whose
    position does not change keeps its bits. ``zero_new`` writes zeros for new tokens, so that nobody reads
    uninitialised memory before they are computed.
    """
    moves = _moves(plan, references, tokens)
    if not moves:
        return
    zeros = (plan.source == Source.NEW) & zero_new
    if _lay_at_once(cache, spec, moves, np.flatnonzero(zeros)):
        return
    filling = _Filling(moves, spec, len(cache.layers), to_torch(np.flatnonzero(zeros)))
    for index, layer in enumerate(cache.layers):
        layer.allocate(*moves[0].rows.like(index), spec.devices[index])
        layer.fill_later(partial(filling.fill, index))


def _moves(plan: ReusePlan, references: Sequence[ReferenceRows], tokens: NDArray[np.bool_]) -> list[_Move]:
    """One move for each span of a reference that serves some of ``tokens``."""
    by_id = {reference.id: reference for reference in references}
    moves = []
    for number, name in enumerate(plan.reference_ids):
        target = np.flatnonzero(tokens & (plan.reference == number))
        position = plan.position[target]
        for span in by_id[name].spans if len(target) else ():
            inside = (position >= span.start) & (position < span.start + span.length)
            if inside.any():
                moves.append(_Move(span.rows.opened(), target[inside], position[inside], span.start))
    return moves


def _lay_at_once(cache: MergedCache, spec: ModelSpec, moves: Sequence[_Move], zeros: NDArray[np.int64]) -> bool:
    """Lay all layers with a kernel, if all rows lie on a device that runs it. Returns whether it did."""
    device = spec.devices[0]
    if not spec.by_rows or not kernels_run(device) or any(there != device for there in spec.devices):
        return False
    likes = [moves[0].rows.like(index) for index in range(len(cache.layers))]
    if not all(keys.shape == values.shape and keys.dtype == values.dtype for keys, values in likes):
        return False
    if not all(move.rows.in_memory and not move.far(0, device) for move in moves):
        return False
    if any(move.rows.like(0)[0].dtype != likes[0][0].dtype for move in moves):
        return False
    from semshare_core.prefill.lay_kernel import DTYPES, lay_on_device  # only here is Triton wanted

    if likes[0][0].dtype not in DTYPES:
        return False
    for layer, like in zip(cache.layers, likes, strict=True):
        layer.allocate(*like, device)
    rows, shift = _table(moves, zeros)
    turns = to_torch(shift, device)
    groups: dict[object, list[int]] = {}
    for index, (rotation, (keys, _)) in enumerate(zip(spec.rotations, likes, strict=True)):
        groups.setdefault((id(rotation.frequencies), rotation.interleaved, keys.shape[1], keys.shape[3]), []).append(
            index
        )
    for layers in groups.values():
        rotation = spec.rotations[layers[0]]
        lay_on_device(
            [cache.layers[index].buffers for index in layers],
            [[move.rows.layer(index) for move in moves] for index in layers],
            rows,
            rotation.angles(turns) if len(shift) else None,
            interleaved=rotation.interleaved,
        )
    return True


def _table(moves: Sequence[_Move], zeros: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What :func:`semshare_core.prefill.lay_kernel.lay_on_device` takes, and the shifts that turn, int64 [any]."""
    number = np.concatenate([np.full(len(move.target), index) for index, move in enumerate(moves)])
    local, target, shift = (
        np.concatenate(parts) for parts in zip(*((m.local, m.target, m.shift) for m in moves), strict=True)
    )
    turned = shift != 0
    turn = np.where(turned, np.cumsum(turned) - 1, -1)
    nothing = np.stack([np.full(len(zeros), -1), np.zeros(len(zeros), int), zeros, np.full(len(zeros), -1)])
    return np.concatenate((np.stack([number, local, target, turn]), nothing), axis=1).astype(np.int64), shift[turned]


class _Filling:
    """Fills layers by moves. A feed fetches far rows, which do not lie on the layer's device."""

    def __init__(self, moves: Sequence[_Move], spec: ModelSpec, n_layers: int, zeros: Tensor) -> None:
        self._moves = moves
        self._spec = spec
        self._zeros = zeros
        far = [
            device
            for index, device in enumerate(spec.devices[:n_layers])
            if any(move.far(index, device) for move in moves)
        ]
        self._copies = {device: Copies(device) for device in dict.fromkeys(far)}
        # the feed gets only the moves: a reference to this object would be a cycle and keep the rows in memory
        fetch = partial(_fetched, moves, spec.devices, self._copies)
        self._feed = LayerFeed(fetch, n_layers) if far else None

    @torch.no_grad()
    def fill(self, index: int, buffers: Pair) -> None:
        fetched: list[Pair | None] = [None] * len(self._moves)
        if self._feed is not None:
            fetched, mark = self._feed.take(index)
            if mark is not None:
                self._copies[self._spec.devices[index]].wait(mark)
        for move, pair in zip(self._moves, fetched, strict=True):
            move.lay(buffers, index, pair, self._spec.rotations[index])
        if self._zeros.numel():
            for buffer in buffers:
                buffer.index_fill_(2, self._zeros.to(buffer.device), 0)


def _fetched(
    moves: Sequence[_Move], devices: Sequence[torch.device], copies: dict[torch.device, Copies], index: int
) -> tuple[list[Pair | None], torch.Event | None]:
    """The layer's far rows for each move, None if they are not far; and when they will be there."""
    device = devices[index]
    pairs = [move.fetch(index, copies[device]) if move.far(index, device) else None for move in moves]
    return pairs, copies[device].mark() if device in copies else None


class _Move:
    """The rows that one span serves. All layers share their rotation angles."""

    def __init__(self, rows: Rows, target: NDArray[np.int64], position: NDArray[np.int64], start: int) -> None:
        self.rows = rows
        self.target, self.local, self.shift = target, position - start, target - position
        self._turns = bool(self.shift.any())
        self._stretch = _slice(target)
        self._source = _slice(self.local)
        self._on_device: dict[tuple[str, torch.device], Tensor] = {}
        self._angles: dict[tuple[int, torch.device], tuple[Tensor, Tensor] | None] = {}

    def far(self, index: int, device: torch.device) -> bool:
        """Whether the layer's rows do not lie on ``device``."""
        return not self.rows.in_memory or self.rows.like(index)[0].device != device

    def fetch(self, index: int, copies: Copies) -> Pair:
        """The served rows [1, kv_heads, m, head_dim], on the layer's device."""
        picked = self._index("local", _HOST) if self._source is None else self._source
        keys, values = (copies.carry(rows, picked) for rows in self.rows.layer(index))
        return keys, values

    def lay(self, buffers: Pair, index: int, fetched: Pair | None, rotation: Rotation) -> None:
        """Write the layer's rows into ``buffers`` and rotate the keys. ``fetched``: the rows, if they were far."""
        pair = fetched or self.rows.layer(index)
        for buffer, rows, rotates in zip(buffers, pair, (self._turns, False), strict=True):
            if self._stretch is not None:  # without a copy in between
                laid = buffer[:, :, self._stretch]
                if fetched:
                    laid.copy_(rows)
                elif self._source is not None:
                    laid.copy_(rows[:, :, self._source])
                else:
                    torch.index_select(rows, 2, self._index("local", rows.device), out=laid)
                if rotates:
                    rotation.turn_(laid, self._angles_of(rotation, laid.device))
                continue
            picked = rows if fetched else self._picked(rows)
            if rotates:
                rotation.turn_(picked, self._angles_of(rotation, picked.device))
            buffer.index_copy_(2, self._index("target", buffer.device), picked)

    def _picked(self, rows: Tensor) -> Tensor:
        return rows.index_select(2, self._index("local", rows.device))

    def _index(self, name: Literal["target", "local", "shift"], device: torch.device) -> Tensor:
        """One of the arrays on ``device``, copied there once."""
        key = (name, device)
        if key not in self._on_device:
            self._on_device[key] = to_torch(getattr(self, name), device)
        return self._on_device[key]

    def _angles_of(self, rotation: Rotation, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rotation angles, which all layers with the same frequencies share."""
        key = (id(rotation.frequencies), device)
        if key not in self._angles:
            self._angles[key] = rotation.angles(self._index("shift", device))
        return self._angles[key]


def _slice(positions: NDArray[np.int64]) -> slice | None:
    """``positions`` as a slice; None if they are not consecutive."""
    consecutive = bool((np.diff(positions) == 1).all())
    return slice(int(positions[0]), int(positions[-1]) + 1) if consecutive else None
