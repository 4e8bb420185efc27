"""A `Cache` with one buffer of rows per layer. Reused rows are laid into the buffer, and computed rows overwrite them.

Prefill *scatters* rows to their positions. Afterwards decoding *appends* rows to the same object, so nothing is copied
in between, and `generate()` works unchanged. A layer may get its reused rows late, when somebody first reads it.
Meanwhile the rows of later layers are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

from semshare_core.process.interrupt import NEVER, Interrupt

_GROWTH = 1.5


class StopForward(Exception):
    """Ends a forward pass once the :class:`MergedCache` has the keys and values of the last layer that matters."""


class BufferLayer(DynamicLayer):
    """Keys and values [1, kv_heads, length, head_dim] as views of a buffer with room for ``capacity`` rows."""

    def __init__(self, capacity: int) -> None:
        self._fill: Callable[[tuple[Tensor, Tensor]], None] | None = None
        self._guarded: slice | None = None
        self._saved: tuple[Tensor, Tensor] | None = None
        super().__init__()
        self.capacity = capacity
        self.length = 0
        self.scatter_rows: Tensor | None = None
        self.visible = 0
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None
        self._home: tuple[Tensor, Tensor] | None = None  # somebody's buffers that it has, or takes when it is allocated
        self._wanted = capacity

    # The base class has these two as attributes. Reading them fills the layer first.

    @property
    def keys(self) -> Tensor | None:
        """Valid keys [1, kv_heads, length, head_dim]."""
        self._fill_now()
        return self._keys

    @keys.setter
    def keys(self, keys: Tensor | None) -> None:
        self._keys = keys

    @property
    def values(self) -> Tensor | None:
        """Valid values [1, kv_heads, length, head_dim]."""
        self._fill_now()
        return self._values

    @values.setter
    def values(self, values: Tensor | None) -> None:
        self._values = values

    def fill_later(self, fill: Callable[[tuple[Tensor, Tensor]], None]) -> None:
        """Call ``fill`` with the allocated buffers before anybody reads them."""
        self._fill_now()
        self._fill = fill

    def guard(self, rows: slice) -> None:
        """Save the present content of ``rows`` before the next write, for :meth:`restore`."""
        self._guarded, self._saved = rows, None

    def restore(self) -> None:
        """Write the saved content back into the guarded rows."""
        if self._saved is not None:
            for buffer, rows in zip(self.buffers, self._saved, strict=True):
                buffer[:, :, self._guarded] = rows
        self._guarded = self._saved = None

    def _fill_now(self) -> None:
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self._allocated)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.allocate(key_states, value_states, key_states.device)

    def allocate(self, like_keys: Tensor, like_values: Tensor, device: torch.device) -> None:
        """Make the buffers on ``device`` with the heads, sizes and dtype of the given [1, kv_heads, any, head_dim]."""
        self.dtype, self.device = like_keys.dtype, device
        home = self._home if self._key_buffer is None else None
        if home is not None and (home[0].dtype != like_keys.dtype or home[0].shape[3] != like_keys.shape[3]):
            home, self.capacity = None, self._wanted
        self._home = home
        self._key_buffer, self._value_buffer = home or (
            torch.empty((*like.shape[:2], self.capacity, like.shape[3]), dtype=like.dtype, device=device)
            for like in (like_keys, like_values)
        )
        self.is_initialized = True
        self.set_length(0)

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """The whole buffers [1, kv_heads, capacity, head_dim]."""
        self._fill_now()
        return self._allocated

    @property
    def _allocated(self) -> tuple[Tensor, Tensor]:
        assert self._key_buffer is not None, "allocate() comes first"
        assert self._value_buffer is not None
        return self._key_buffer, self._value_buffer

    def live_in(self, home: tuple[Tensor, Tensor], capacity: int) -> None:
        """Take these buffers, with room for ``capacity`` rows, instead of new ones."""
        self._home, self._wanted, self.capacity = home, self.capacity, capacity

    def settle(self) -> None:
        """Have the rows in the buffers."""
        if not self.is_initialized and self._home is not None:
            self.allocate(*self._home, self._home[0].device)
        self._fill_now()

    def lives_in(self, home: tuple[Tensor, Tensor]) -> bool:
        return self._home is home

    def set_length(self, length: int) -> None:
        """Declare the first ``length`` rows valid."""
        keys, values = self._allocated
        self.length = length
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new rows and return the keys and values that attention may see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.scatter_rows is not None:
            keys, values = self.buffers
            if self._guarded is not None and self._saved is None:
                self._saved = (keys[:, :, self._guarded].clone(), values[:, :, self._guarded].clone())
            rows = self.scatter_rows.to(keys.device)  # a model's layers may lie on several devices
            keys.index_copy_(2, rows, key_states)
            values.index_copy_(2, rows, value_states)
            return keys[:, :, : self.visible], values[:, :, : self.visible]
        if not self._owns_rows():  # beam search or a batch operation replaced the views: concatenate
            return super().update(key_states, value_states)
        new = self.length + key_states.shape[2]
        self.reserve(new)
        keys, values = self.buffers
        keys[:, :, self.length : new] = key_states
        values[:, :, self.length : new] = value_states
        self.set_length(new)
        return keys[:, :, :new], values[:, :, :new]

    def _owns_rows(self) -> bool:
        keys, _ = self.buffers
        return (
            self.keys is not None
            and self.keys.shape[0] == keys.shape[0]
            and self.keys.shape[2] <= self.length
            and (self.keys.shape[2] == 0 or self.keys.data_ptr() == keys.data_ptr())  # an empty view has no address
        )

    def reserve(self, rows: int) -> None:
        """Make room for ``rows`` rows."""
        if rows <= self.capacity:
            return
        old_keys, old_values = self.buffers
        length = self.length
        self.capacity = max(rows, int(self.capacity * _GROWTH))
        self.allocate(old_keys, old_values, old_keys.device)
        keys, values = self._allocated
        keys[:, :, :length] = old_keys[:, :, :length]
        values[:, :, :length] = old_values[:, :, :length]
        self.set_length(length)

    def move_out(self) -> None:
        """Copy the rows into buffers of their own, if they live in somebody's home."""
        if self._home is not None and self.is_initialized:
            keys, values = self.buffers
            length = self.length
            self.capacity = max(self._wanted, length)
            self.allocate(keys, values, keys.device)
            for mine, theirs in zip(self._allocated, (keys, values), strict=True):
                mine[:, :, :length] = theirs[:, :, :length]
            self.set_length(length)

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)
        if self.keys is not None:
            self.length = self.keys.shape[2]

    def reset(self) -> None:
        self._key_buffer = self._value_buffer = self._fill = self._home = None
        self.length = 0
        super().reset()


class InterruptibleCache(Cache):
    """Checks ``interrupt`` at every update, so that a forward pass can end between two layers."""

    def __init__(self, layers: Sequence[CacheLayerMixin], interrupt: Interrupt = NEVER) -> None:
        super().__init__(layers=list(layers))
        self.interrupt = interrupt

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.interrupt.check()
        visible: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return visible


class MergedCache(InterruptibleCache):
    """One :class:`BufferLayer` per decoder layer, all with room for ``capacity`` tokens.

    Attributes:
        ready: the logits [vocabulary] behind the prompt, if they are computed already. The last token's row is then in
            the buffers, and no row is pending but in name.
    """

    layers: list[BufferLayer]

    def __init__(self, n_layers: int, capacity: int, interrupt: Interrupt = NEVER) -> None:
        super().__init__([BufferLayer(capacity) for _ in range(n_layers)], interrupt)
        self._stop_layer: int | None = None
        self.ready: Tensor | None = None

    def live_in(self, home: list[tuple[Tensor, Tensor]], capacity: int) -> None:
        """Take these buffers, with room for ``capacity`` rows, instead of new ones."""
        for layer, pair in zip(self.layers, home, strict=True):
            layer.live_in(pair, capacity)

    def at_home(self, home: list[tuple[Tensor, Tensor]]) -> bool:
        """Whether all layers use these buffers."""
        return len(home) == len(self.layers) and all(
            layer.lives_in(pair) for layer, pair in zip(self.layers, home, strict=True)
        )

    def settle(self) -> None:
        """Have all layers' rows in their buffers."""
        for layer in self.layers:
            layer.settle()

    def take_ready(self) -> Tensor | None:
        """The logits [vocabulary] behind the prompt, whose last row counts from now on; None if they are not ready."""
        ready, self.ready = self.ready, None
        if ready is not None:
            self.finish(self.layers[0].length + 1)
        return ready

    def move_out(self) -> None:
        """Copy the rows into buffers of their own, if they live in somebody's home."""
        for layer in self.layers:
            layer.move_out()

    def begin(self, rows: list[Tensor], visible: int, stop_layer: int | None) -> None:
        """Let layer ``l`` scatter to ``rows[l]``, and let attention see the first ``visible`` rows.

        The next forward pass ends when layer ``stop_layer`` has its keys and values; see :meth:`stop_at`.
        """
        for layer, layer_rows in zip(self.layers, rows, strict=True):
            layer.scatter_rows = layer_rows
            layer.visible = visible
        self._stop_layer = stop_layer

    def stop_at(self, layer: int) -> None:
        """Let the next forward pass end with :class:`StopForward` when ``layer`` has its keys and values."""
        self._stop_layer = layer

    def finish(self, length: int) -> None:
        """Let all layers append again, after the first ``length`` rows."""
        self._stop_layer = None
        for layer in self.layers:
            layer.scatter_rows = None
            if layer.is_initialized:
                layer.set_length(length)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        visible = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self._stop_layer:
            raise StopForward
        return visible

    def rows(self, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the first ``length`` tokens per layer, as views [1, kv_heads, length, head_dim]."""
        if not self.layers[0].is_initialized:
            return []
        return [
            (keys[:, :, :length], values[:, :, :length]) for keys, values in (layer.buffers for layer in self.layers)
        ]

    def take(self, start: int, end: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of tokens ``start:end`` per layer, [1, kv_heads, end - start, head_dim], in their own memory.

        The rows leave the cache layer by layer, so that no more than one layer is in memory twice.
        """
        taken = []
        for layer in self.layers:
            keys, values = (buffer[:, :, start:end].clone() for buffer in layer.buffers)
            taken.append((keys, values))
            layer.reset()
        return taken


def kv_bytes(rows: list[tuple[Tensor, Tensor]]) -> int:
    """The size of these rows in bytes."""
    return sum(tensor.numel() * tensor.element_size() for pair in rows for tensor in pair)


def to_torch(rows: object, device: torch.device | str = "cpu") -> Tensor:
    """Row indices as an int64 tensor on ``device``, which nobody waits for. Torch's default device does not matter."""
    return torch.as_tensor(rows, dtype=torch.int64, device="cpu").contiguous().to(device, non_blocking=True)
