"""Safetensors files that know what they hold: any flipped bit in header or data is found before the data is used.

The header's metadata has two texts: ``semshare``, a JSON object with the format version and a checksum of every
tensor, and ``check``, the checksum of that object and of the tensors' names, dtypes and shapes. Opening verifies the
header, and a tensor is verified when it is read for the first time. XXH3 (64 bits) finds damage; it is no protection
against someone who means to deceive, and who can write to the folder anyway.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, TensorSpec, safe_open, serialize
from torch import Tensor
from xxhash import xxh3_64_hexdigest

from semshare_core.errors import DamagedFileError, ForeignFileError, NewerFileError, PoolFileError
from semshare_core.pool.disk.atomic import cannot

FORMAT = 3
"""Version of everything in a pool's folder. A change that older versions would misread needs a higher number.

2: records say under what bound approximate rows were made; of those in format 1 nobody knows.
3: records say which weights computed the rows, and a fingerprint is one of all bytes of the weights.
"""

_ABOUT, _CHECK = "semshare", "check"
Layout = dict[str, tuple[str, tuple[int, ...]]]


class About(BaseModel):
    """What every file says of itself.

    Attributes:
        format: see ``FORMAT``.
        fingerprint: digest of the :class:`Fingerprint` it was written for.
        id: of the entry or segment, so that a file under another's name is noticed.
        sums: checksum of each tensor.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    format: int = FORMAT
    fingerprint: str
    id: str
    sums: dict[str, str] = {}


A = TypeVar("A", bound=About)


def encode(tensors: Mapping[str, Tensor], about: About) -> bytes:
    """The content of a file that holds ``tensors`` (on the CPU, contiguous); it is as large as they are together."""
    sums = {name: xxh3_64_hexdigest(_raw(tensor)) for name, tensor in tensors.items()}
    text = about.model_copy(update={"sums": sums}).model_dump_json()
    specs = {
        name: TensorSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tensor.shape,
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
    }
    layout = {name: (spec.dtype, tuple(spec.shape)) for name, spec in specs.items()}
    return serialize(specs, {_ABOUT: text, _CHECK: _check(text, layout)})


class CheckedFile(Generic[A]):
    """A file opened for reading, memory-mapped, its header verified.

    Args:
        path: symbolic links are not followed.
        kind: what its metadata must be.
        fingerprint: digest it must have been written for.
        framework: whether tensors come as torch's (views of the mapping) or as numpy's (copies).

    Raises:
        DamagedFileError, NewerFileError, ForeignFileError: see there.
        PoolFileError: the system cannot read it.
    """

    def __init__(self, path: Path, kind: type[A], fingerprint: str, framework: Literal["pt", "np"]) -> None:
        self.path = path
        self.n_bytes = regular_size(path)
        try:
            self._file: Any = safe_open(path, framework)
            metadata = self._file.metadata() or {}
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 -- no mapping
            self.layout: Layout = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        except FileNotFoundError as error:
            raise DamagedFileError(f"{path} is missing.") from error
        except OSError as error:
            raise cannot("read", path, error) from error
        except MemoryError as error:  # it needs no memory, but addresses
            raise PoolFileError(f"{path} is too large to be mapped: {self.n_bytes} bytes.") from error
        except SafetensorError as error:
            raise damaged(path, str(error)) from error
        self.about = parse(kind, metadata.get(_ABOUT, ""), path)
        if metadata.get(_CHECK) != _check(metadata[_ABOUT], self.layout):
            raise damaged(path, "its header does not match its checksum")
        if set(self.about.sums) != set(self.layout):
            raise damaged(path, "its header does not list its tensors")
        if self.about.fingerprint != fingerprint:
            raise ForeignFileError(f"{path} was written for another model, tokenizer or dtype.")
        self._verified: set[str] = set()

    def tensor(self, name: str) -> Any:
        """One tensor, verified if this is its first time.

        Raises:
            DamagedFileError: its bytes are not those that were written.
        """
        found = self._file.get_tensor(name)
        if name not in self._verified:
            if xxh3_64_hexdigest(_raw(found)) != self.about.sums[name]:
                raise damaged(self.path, f"{name} does not match its checksum")
            self._verified.add(name)
        return found

    def unread(self, name: str) -> Any:
        """One tensor for its dtype and shape; nothing of it has been read or verified."""
        return self._file.get_tensor(name)


class _Version(BaseModel):
    format: int


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], text: str | bytes, path: Path) -> M:
    """JSON of ``path`` as a ``kind``.

    Raises:
        NewerFileError: its ``format`` is beyond ours.
        DamagedFileError: it is something else.
    """
    try:
        version = _Version.model_validate_json(text).format
        if version > FORMAT:
            raise NewerFileError(
                f"{path} has format {version}, and this version of SemShare reads up to {FORMAT}: update SemShare, "
                f"or choose another folder."
            )
        if version < 1:
            raise damaged(path, f"there is no format {version}")
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise damaged(path, f"no description of it can be read ({error.error_count()} errors)") from error


def regular_size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        DamagedFileError: it is missing, or a folder, link, device or the like.
        PoolFileError: the system cannot say.
    """
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing.") from error
    except OSError as error:
        raise cannot("read", path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "it is not a regular file")
    return found.st_size


def damaged(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged: {why}.")


def _check(text: str, layout: Layout) -> str:
    return xxh3_64_hexdigest(json.dumps([text, sorted(layout.items())]).encode())


def _raw(tensor: Tensor | NDArray[Any]) -> memoryview:
    """The bytes, uncopied, of a contiguous tensor of any dtype."""
    if isinstance(tensor, Tensor):
        return tensor.reshape(-1).view(torch.uint8).numpy().data
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data
