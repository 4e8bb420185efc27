"""Segments: rows of consecutive tokens, stored once for all entries that begin alike.

Entries of one namespace that begin with the same tokens share the segments of that beginning, as the nodes of a radix
tree are shared (SGLang's RadixAttention, arXiv 2312.07104): memory grows with distinct tokens, not with prompts.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from semshare_core.pool.disk.segment_file import StoredRows

Pair = tuple[Tensor, Tensor]
Tier = Literal["device", "host"]


class Rows(Protocol):
    """Keys and values of consecutive tokens, wherever they lie."""

    @property
    def in_memory(self) -> bool: ...

    @property
    def n_layers(self) -> int: ...

    def layer(self, index: int) -> Pair:
        """Keys and values [1, kv_heads, tokens, head_dim] of one layer."""
        ...

    def like(self, index: int) -> Pair:
        """Tensors with the layer's dtype, heads and sizes, got without reading rows."""
        ...

    def opened(self) -> Rows:
        """The same rows, to be held by whoever reads several layers: a file is open as long."""
        ...


class MemoryRows:
    """Rows in tensors, on the device that computed them or in host memory."""

    in_memory = True

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._layers: list[tuple[Pair, ...]] = [(pair,) for pair in pairs]  # of each the parts that follow each other
        self.n_layers = len(self._layers)
        self.n_bytes = sum(tensor.numel() * tensor.element_size() for pair in pairs for tensor in pair)

    @property
    def pairs(self) -> list[Pair]:
        """Keys and values [1, kv_heads, tokens, head_dim] of all layers."""
        return [self.layer(index) for index in range(self.n_layers)]

    def layer(self, index: int) -> Pair:
        parts = self._layers[index]
        if len(parts) == 1:
            return parts[0]
        keys, values = (torch.cat(tensors, dim=2) for tensors in zip(*parts, strict=True))
        return keys, values

    def like(self, index: int) -> Pair:
        return self._layers[index][0]

    def opened(self) -> MemoryRows:
        return self

    def part(self, begin: int, end: int) -> MemoryRows:
        """A copy of the rows of some of the tokens."""
        return MemoryRows([_copied(self.layer(index), begin, end) for index in range(self.n_layers)])

    def divided(self, at: int) -> tuple[MemoryRows, MemoryRows]:
        """Copies of the rows before ``at`` and from there on.

        They take the place of these rows layer by layer, so that no more than one layer is in memory twice. Whoever
        holds these rows reads on in the copies.
        """
        first, second = [], []
        for index in range(self.n_layers):
            pair = self.layer(index)
            parts = (_copied(pair, 0, at), _copied(pair, at, pair[0].shape[2]))
            self._layers[index] = parts
            first.append(parts[0])
            second.append(parts[1])
        return MemoryRows(first), MemoryRows(second)

    def snug(self) -> MemoryRows:
        """These rows, copied if they are views of something larger that they would keep alive."""
        pairs = self.pairs
        kept_alive = sum(tensor.untyped_storage().nbytes() for pair in pairs for tensor in pair)
        return self if kept_alive <= self.n_bytes else self.part(0, pairs[0][0].shape[2])


def _copied(pair: Pair, begin: int, end: int) -> Pair:
    keys, values = (tensor[:, :, begin:end].clone() for tensor in pair)
    return keys, values


def read_rows(rows: Rows) -> MemoryRows:
    """Rows from wherever they lie, as tensors of their own."""
    opened = rows.opened()
    return MemoryRows([(keys.clone(), values.clone()) for keys, values in map(opened.layer, range(opened.n_layers))])


def to_host(rows: MemoryRows) -> MemoryRows:
    """Rows in host memory; pinned, for fast copies back, if they come from an accelerator."""
    pairs = []
    for pair in rows.pairs:
        keys, values = (tensor if tensor.device.type == "cpu" else _pinned(tensor) for tensor in pair)
        pairs.append((keys, values))
    for device in {tensor.device for pair in rows.pairs for tensor in pair if tensor.device.type != "cpu"}:
        torch.accelerator.current_stream(device).synchronize()
    return MemoryRows(pairs)


def _pinned(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, which is there when its device has been waited for."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def to_devices(rows: MemoryRows, devices: Sequence[torch.device]) -> MemoryRows:
    """Rows where their layers compute."""
    return MemoryRows(
        [(keys.to(device), values.to(device)) for (keys, values), device in zip(rows.pairs, devices, strict=True)]
    )


@dataclass(eq=False)
class Segment:
    """Rows of consecutive tokens.

    Attributes:
        namespace: whose it is.
        start: position of the first token in the entries that hold the segment.
        length: tokens.
        rows: where the rows lie now. Replaced as a whole: whoever took the old ones may go on reading them.
        n_bytes: of keys and values.
        tier: the memory tier that counts the rows; None: they are on disk only.
        stored: the rows' copy on disk, or None.
        holders: ids of the entries that the segment belongs to.
        uses: calls served, of all its holders.
        value: see ``semshare_core.pool.worth``.
        tick: when it was valued, to tell the newest of its places in a queue.
        pinned: stays in the pool and in its tier, whatever it is worth.
    """

    namespace: str
    start: int
    length: int
    rows: Rows
    n_bytes: int
    tier: Tier | None = None
    stored: StoredRows | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    holders: set[str] = field(default_factory=set)
    uses: int = 1
    value: float = 0.0
    tick: int = 0
    pinned: bool = False

    @property
    def end(self) -> int:
        return self.start + self.length
