"""Keys and values of consecutive tokens, in a safetensors file of their own that knows what it holds.

Any flipped bit is found before it is used. The header's metadata has two texts: ``semshare``, a JSON object with the
segment's id and a checksum of every tensor, and ``check``, the checksum of that text and of the tensors' names, dtypes
and shapes. Opening verifies the header, and a tensor is verified when it is read for the first time. XXH3 (64 bits)
finds damage; it is no protection against someone who means to deceive, and who can write to the folder anyway.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, TensorSpec, safe_open, serialize
from xxhash import xxh3_64_hexdigest

from semshare_core.errors import NewerFileError, PoolFileError
from semshare_core.pool.disk.atomic import cannot, damaged, regular_size

if TYPE_CHECKING:  # the commands that need no rows start without torch
    from torch import Tensor

ROWS_FORMAT = 4
"""Version of these files. A change that older versions would misread needs a higher number."""

_AXES = 4  # [1, kv_heads, n, head_dim]
_Layout = dict[str, tuple[str, tuple[int, ...]]]


class SegmentFile:
    """A segment's rows, memory-mapped: a layer is read from the disk when it is first asked for.

    The mapping stays valid when the file is deleted or replaced meanwhile. Symbolic links are not followed.

    Attributes:
        n_layers: number of layers; ``n_tokens`` rows in each.
        sums: checksums of all layers' keys and values: equal for equal rows.

    Raises:
        DamagedFileError: it is not what was written.
        NewerFileError: a later version wrote it.
        PoolFileError: the system cannot read it.
    """

    in_memory = False

    def __init__(self, path: Path) -> None:
        self.path = path
        size = regular_size(path)
        try:
            self._file: Any = safe_open(path, "pt")
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 -- no mapping
            layout: _Layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        except OSError as error:
            raise cannot("read", path, error) from error
        except MemoryError as error:  # it needs no memory, but addresses
            raise PoolFileError(f"{path} is too large to be mapped: {size} bytes.") from error
        except SafetensorError as error:
            raise damaged(path, str(error)) from error
        self.sums = self._verified_header(self._file.metadata() or {}, layout)
        self.n_layers = len(layout) // 2
        names = [name for layer in range(self.n_layers) for name in _names(layer)]
        shapes = [shape for _, shape in layout.values()]
        if not layout or not set(names) == set(layout) == set(self.sums):
            raise damaged(path, "it does not hold keys and values of one text")
        if any(len(shape) != _AXES or shape[0] != 1 or shape[2] != shapes[0][2] for shape in shapes):
            raise damaged(path, "its layers hold different numbers of rows")
        self.n_tokens = shapes[0][2]
        self._unverified = set(names)

    def _verified_header(self, metadata: dict[str, str], layout: _Layout) -> dict[str, str]:
        """The checksums of the tensors."""
        text = metadata.get("semshare", "")
        if metadata.get("check") != _check(text, layout):
            raise damaged(self.path, "its header does not match its checksum")
        about = json.loads(text)
        if about["format"] > ROWS_FORMAT:
            raise NewerFileError(
                f"{self.path} has format {about['format']}: update SemShare, or choose another folder."
            )
        if about["id"] != self.path.stem:
            raise damaged(self.path, "it is another segment's file")
        sums: dict[str, str] = about["sums"]
        return sums

    def opened(self) -> SegmentFile:
        return self

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, n_tokens, head_dim] of one layer, views of the mapped file.

        Writing to them changes this process's copy only. Raises :class:`DamagedFileError` the first time.
        """
        keys, values = (self._file.get_tensor(name) for name in _names(index))
        for name, tensor in zip(_names(index), (keys, values), strict=True):
            if name in self._unverified:
                if xxh3_64_hexdigest(_raw(tensor)) != self.sums[name]:
                    raise damaged(self.path, f"{name} does not match its checksum")
                self._unverified.remove(name)
        return keys, values

    def like(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, 0, head_dim]: the layer's dtype, heads and sizes, and none of its rows."""
        keys, values = (self._file.get_tensor(name)[:, :, :0] for name in _names(index))
        return keys, values

    def verify(self, tokens: int) -> None:
        """Read every byte; raises :class:`DamagedFileError` unless it holds so many rows, and what was written."""
        if self.n_tokens != tokens:
            raise damaged(self.path, f"it holds {self.n_tokens} rows instead of {tokens}")
        for index in range(self.n_layers):
            self.layer(index)


class StoredRows:
    """A segment's rows on disk. A pool of a hundred thousand entries holds the names of as many files.

    A file is open, and mapped into memory, as long as somebody reads it. Reading raises :class:`DamagedFileError` where
    the file is not what was written.
    """

    in_memory = False

    def __init__(self, open_file: Callable[[str], SegmentFile], segment: str, length: int) -> None:
        self._open = open_file
        self._segment = segment
        self._length = length
        self._file: weakref.ref[SegmentFile] | None = None

    def opened(self) -> SegmentFile:
        """The rows' file, which stays open as long as the caller holds what this returns."""
        file = self._file() if self._file is not None else None
        if file is None:
            file = self._open(self._segment)
            if file.n_tokens != self._length:
                raise damaged(file.path, f"it holds {file.n_tokens} rows instead of {self._length}")
            self._file = weakref.ref(file)
        return file

    @property
    def n_layers(self) -> int:
        return self.opened().n_layers

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.opened().layer(index)

    def like(self, index: int) -> tuple[Tensor, Tensor]:
        return self.opened().like(index)


def encode_rows(rows: Sequence[tuple[Tensor, Tensor]], segment: str) -> bytes:
    """The content of a segment's file; memory holds it twice more for a moment.

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
    return encode(tensors, segment)


def encode(tensors: dict[str, Tensor], segment: str) -> bytes:
    """The content of a file that holds ``tensors`` (on the CPU, contiguous)."""
    sums = {name: xxh3_64_hexdigest(_raw(tensor)) for name, tensor in tensors.items()}
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
    }
    text = json.dumps({"format": ROWS_FORMAT, "id": segment, "sums": sums})
    layout = {name: (spec.dtype, tuple(spec.shape)) for name, spec in specs.items()}
    return serialize(specs, {"semshare": text, "check": _check(text, layout)})


def _check(text: str, layout: _Layout) -> str:
    return xxh3_64_hexdigest(json.dumps([text, sorted(layout.items())]).encode())


def _names(layer: int) -> tuple[str, str]:
    """Names that sort by layer: safetensors lays tensors of one dtype out in that order."""
    return f"{layer:05}.k", f"{layer:05}.v"


def _raw(tensor: Tensor) -> memoryview:
    """The bytes, uncopied, of a contiguous tensor of any dtype."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data
