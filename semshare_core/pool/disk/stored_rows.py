"""Keys and values of consecutive tokens, in a file of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from semshare_core.pool.disk.checked_file import About, CheckedFile, damaged, encode

_AXES = 4  # [1, kv_heads, n, head_dim]


class StoredRows:
    """Rows of a segment, memory-mapped: a layer is read from the disk when it is first asked for.

    The mapping stays valid when the file is deleted or replaced meanwhile.

    Attributes:
        path: of the file.
        id: of the segment.
        n_layers: number of layers.
        n_tokens: rows in each.
        n_bytes: size of the file.

    Raises:
        PoolFileError: the file cannot be used; see :class:`CheckedFile` for the kinds.
    """

    in_memory = False

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self._file = CheckedFile(path, About, fingerprint, "pt")
        layout = self._file.layout
        self.id = self._file.about.id
        self.n_bytes = self._file.n_bytes
        self.n_layers = len(layout) // 2
        names = {name for layer in range(self.n_layers) for name in _names(layer)}
        shapes = [shape for _, shape in layout.values()]
        if not layout or set(layout) != names or any(len(shape) != _AXES or shape[0] != 1 for shape in shapes):
            raise damaged(path, "it does not hold keys and values of one text")
        self.n_tokens = shapes[0][2]
        if any(shape[2] != self.n_tokens for shape in shapes):
            raise damaged(path, "its layers hold different numbers of rows")

    @property
    def sums(self) -> dict[str, str]:
        """Checksums of all layers' keys and values: equal for equal rows."""
        return self._file.about.sums

    def opened(self) -> StoredRows:
        return self

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, n_tokens, head_dim] of one layer, views of the mapped file.

        Writing to them changes this process's copy only. The checksums are verified the first time.

        Raises:
            DamagedFileError: they are not what was written.
        """
        key, value = _names(index)
        return self._file.tensor(key), self._file.tensor(value)

    def like(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, 0, head_dim]: the layer's dtype, heads and sizes, and none of its rows."""
        keys, values = (self._file.unread(name)[:, :, :0] for name in _names(index))
        return keys, values


def encode_rows(rows: Sequence[tuple[Tensor, Tensor]], segment: str, fingerprint: str) -> bytes:
    """The content of a segment's file.

    Args:
        rows: per layer keys and values [1, kv_heads, n, head_dim]; shapes and dtypes may differ from layer to layer,
            n may not. On any device.

    Raises:
        ValueError: the tensors are of other shapes.
    """
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for layer, pair in enumerate(rows)
        for name, tensor in zip(_names(layer), pair, strict=True)
    }
    counts = {tensor.shape[2] if tensor.dim() == _AXES and len(tensor) == 1 else 0 for tensor in tensors.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"Rows of segment {segment!r} are {[list(t.shape) for t in tensors.values()]}, not [1, heads, n, dim]."
        )
    return encode(tensors, About(fingerprint=fingerprint, id=segment))


def _names(layer: int) -> tuple[str, str]:
    """Names that sort by layer: safetensors lays tensors of one dtype out in that order."""
    return f"{layer:05}.k", f"{layer:05}.v"
