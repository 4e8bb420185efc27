"""Keys and values of consecutive tokens, in a safetensors file of their own that knows what it holds.

Any flipped bit is found before it is used. The header's metadata has two texts. ``semshare`` is a JSON object: the
segment's id, its rows' codec and number, each layer's dtypes, heads and sizes, and a checksum of every tensor.
``check`` is the checksum of that text and of the tensors' names, dtypes and shapes. Opening verifies the header, and a
tensor is verified when it is read for the first time. XXH3 (64 bits) finds damage; it is no protection against someone
who means to deceive, and who can write to the folder anyway.
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
from semshare_core.pool.disk.record import SegmentRef
from semshare_core.slots import CODECS

if TYPE_CHECKING:  # the commands that need no rows start without torch
    from torch import Tensor

ROWS_FORMAT = 4
"""Version of these files. A change that older versions would misread needs a higher number."""

_AXES = 4  # [1, kv_heads, n, head_dim]
_Layout = dict[str, tuple[str, tuple[int, ...]]]
_Kind = list[Any]  # as in JSON: dtype, heads, head_dim


class SegmentFile:
    """A segment's rows, memory-mapped: a layer is read from the disk, and decoded, when it is asked for.

    The mapping stays valid when the file is deleted or replaced meanwhile. Symbolic links are not followed.

    Attributes:
        n_layers: number of layers; ``n_tokens`` rows in each.
        codec: how the rows lie: name and version.
        sums: checksums of all tensors: equal for equal rows of one codec.

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
        about = self._verified_header(self._file.metadata() or {}, layout)
        self.sums: dict[str, str] = about["sums"]
        self.codec: tuple[str, int] = tuple(about["codec"])
        self.n_tokens: int = about["tokens"]
        self._layers: list[list[_Kind]] = about["layers"]
        self.n_layers = len(self._layers)
        self._unverified = set(self.sums)
        if not layout or self._unverified != set(layout):
            raise damaged(path, "it does not hold keys and values of one text")

    def _verified_header(self, metadata: dict[str, str], layout: _Layout) -> dict[str, Any]:
        """What the header tells of the rows."""
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
        return dict(about)

    def opened(self) -> SegmentFile:
        return self

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, n_tokens, head_dim] of one layer; in codec ``none`` views of the mapped file.

        Writing to them changes this process's copy only. Raises :class:`DamagedFileError`.
        """
        prefix = _prefix(index)
        blobs = {name.removeprefix(prefix): self._verified(name) for name in self.sums if name.startswith(prefix)}
        codec = CODECS.get(self.codec[0])()
        try:
            keys, values = codec.decode(blobs)
        except MemoryError:
            raise
        except Exception as error:  # whatever a codec raises, a call can do without these rows
            raise damaged(self.path, f"codec {self.codec[0]!r} cannot decode layer {index}: {error!r}") from error
        for rows, (dtype, heads, size) in zip((keys, values), self._layers[index], strict=True):
            if str(rows.dtype) != f"torch.{dtype}" or rows.shape != (1, heads, self.n_tokens, size):
                raise damaged(self.path, f"layer {index} has other rows than its header tells")
        return keys, values

    def _verified(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        if name in self._unverified:
            if xxh3_64_hexdigest(_raw(tensor)) != self.sums[name]:
                raise damaged(self.path, f"{name} does not match its checksum")
            self._unverified.discard(name)
        return tensor

    def like(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values [1, kv_heads, 0, head_dim]: the layer's dtype, heads and sizes, and none of its rows."""
        import torch

        keys, values = (
            torch.empty((1, heads, 0, size), dtype=getattr(torch, dtype)) for dtype, heads, size in self._layers[index]
        )
        return keys, values

    def check(self, ref: SegmentRef) -> None:
        """Raises :class:`DamagedFileError` unless it holds as many rows as a record says, in the codec that it says."""
        if self.n_tokens != ref.tokens:
            raise damaged(self.path, f"it holds {self.n_tokens} rows instead of {ref.tokens}")
        if self.codec != (ref.codec, ref.codec_version):
            raise damaged(self.path, f"it is in codec {self.codec} instead of {ref.codec!r} {ref.codec_version}")

    def verify(self, ref: SegmentRef) -> None:
        """Read every byte, which needs no codec; raises :class:`DamagedFileError` unless it is what was written."""
        self.check(ref)
        for name in self.sums:
            self._verified(name)


class StoredRows:
    """A segment's rows on disk. A pool of a hundred thousand entries holds the names of as many files.

    A file is open, and mapped into memory, as long as somebody reads it. Reading raises :class:`DamagedFileError` where
    the file is not what was written.
    """

    in_memory = False

    def __init__(self, open_file: Callable[[str], SegmentFile], ref: SegmentRef) -> None:
        self.ref = ref
        self._open = open_file
        self._file: weakref.ref[SegmentFile] | None = None

    def opened(self) -> SegmentFile:
        """The rows' file, which stays open as long as the caller holds what this returns."""
        file = self._file() if self._file is not None else None
        if file is None:
            file = self._open(self.ref.id)
            file.check(self.ref)
            self._file = weakref.ref(file)
        return file

    @property
    def n_layers(self) -> int:
        return self.opened().n_layers

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.opened().layer(index)

    def like(self, index: int) -> tuple[Tensor, Tensor]:
        return self.opened().like(index)


def encode_rows(rows: Sequence[tuple[Tensor, Tensor]], segment: str, codec: str = "none") -> bytes:
    """The content of a segment's file; memory holds it twice more for a moment.

    Args:
        rows: per layer keys and values [1, kv_heads, n, head_dim]; shapes and dtypes may differ from layer to layer,
            n may not. On any device.

    Raises:
        ValueError: the tensors are of other shapes.
        PoolFileError: the codec fails.
    """
    shapes = [list(tensor.shape) for pair in rows for tensor in pair]
    counts = {shape[2] if len(shape) == _AXES and shape[0] == 1 else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"Rows of segment {segment!r} are {shapes}, not [1, heads, n, dim].")
    encoder = CODECS.get(codec)()
    try:
        tensors = {
            _prefix(layer) + name: blob.contiguous()
            for layer, (keys, values) in enumerate(rows)
            for name, blob in encoder.encode((_to_cpu(keys), _to_cpu(values))).items()
        }
    except MemoryError:
        raise
    except Exception as error:  # whatever a codec raises, the pool goes on without the copy on disk
        raise PoolFileError(f"Codec {codec!r} cannot encode the rows of a segment: {error!r}.") from error
    layers = [[_kind(keys), _kind(values)] for keys, values in rows]
    return encode(tensors, segment, {"codec": [codec, encoder.version], "tokens": counts.pop(), "layers": layers})


def encode(tensors: dict[str, Tensor], segment: str, about: dict[str, Any]) -> bytes:
    """The content of a file that holds ``tensors`` (on the CPU, contiguous), and what its header tells of them."""
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
    text = json.dumps({"format": ROWS_FORMAT, "id": segment, "sums": sums, **about})
    layout = {name: (spec.dtype, tuple(spec.shape)) for name, spec in specs.items()}
    return serialize(specs, {"semshare": text, "check": _check(text, layout)})


def _check(text: str, layout: _Layout) -> str:
    return xxh3_64_hexdigest(json.dumps([text, sorted(layout.items())]).encode())


def _prefix(layer: int) -> str:
    """Names that sort by layer: safetensors lays tensors of one dtype out in that order."""
    return f"{layer:05}."


def _kind(tensor: Tensor) -> _Kind:
    """All but how many tokens there are: dtype, heads, size of a head."""
    return [str(tensor.dtype).removeprefix("torch."), tensor.shape[1], tensor.shape[3]]


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _raw(tensor: Tensor) -> memoryview:
    """The bytes, uncopied, of a contiguous tensor of any dtype."""
    import torch

    return tensor.reshape(-1).view(torch.uint8).numpy().data
