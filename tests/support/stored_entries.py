"""Records and rows for the tests of the pool's folder: everything follows from the id, so that all can be verified."""

from __future__ import annotations

import dataclasses
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semshare_core.pool.disk import Fingerprint, PoolFolder, Record, SegmentRef

MODEL = Fingerprint({"architecture": "Tiny", "weights": "a"})
OTHER_MODEL = Fingerprint({"architecture": "Tiny", "weights": "b"})
SHAPES = ((torch.float32, 2, 8), (torch.bfloat16, 1, 6), (torch.float16, 3, 4))
"""Of each layer: dtype, heads, head_dim of the keys (the values have one more)."""

Segments = tuple[tuple[str, int], ...]
"""A name for the test, and tokens, of each."""


def segment_id(name: str, namespace: str = "default") -> str:
    return blake2b(f"{namespace}/{name}".encode(), digest_size=16).hexdigest()


def make_rows(segment: str, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Rows of random bits, NaN and infinity among them."""
    random = np.random.default_rng(_seed(segment))

    def bits(dtype: torch.dtype, *shape: int) -> Tensor:
        count = int(np.prod(shape)) * dtype.itemsize
        return torch.from_numpy(random.integers(0, 256, count, np.uint8)).view(dtype).reshape(shape)

    return [(bits(d, 1, heads, tokens, dim), bits(d, 1, heads, tokens, dim + 1)) for d, heads, dim in SHAPES]


def rows_bytes(tokens: int) -> int:
    return tokens * sum(dtype.itemsize * heads * (2 * dim + 1) for dtype, heads, dim in SHAPES)


def refs(segments: Segments, namespace: str = "default") -> tuple[SegmentRef, ...]:
    return tuple(SegmentRef(segment_id(name, namespace), tokens, rows_bytes(tokens)) for name, tokens in segments)


def make_record(entry: str, segments: Segments, namespace: str = "default", model: Fingerprint = MODEL) -> Record:
    n = sum(count for _, count in segments)
    random = np.random.default_rng(_seed(entry))
    return Record(
        model=model.digest,
        namespace=namespace,
        id=entry,
        tokens=random.integers(0, 2**40, n),
        approximate=(approximate := random.integers(0, 2, n).astype(bool)),
        embedding=random.standard_normal((2, 5), np.float32),
        segments=refs(segments, namespace),
        created=1.0e9 + random.random(),
        expires=None if random.random() < 0.5 else 2.0e9,
        account=float(random.choice([0.01, 0.05, np.inf])) if approximate.any() else 0.0,
        pinned=bool(random.random() < 0.5),
        uses=int(random.integers(0, 100)),
    )


def write_rows(folder: PoolFolder, name: str, tokens: int, namespace: str = "default") -> str:
    segment = segment_id(name, namespace)
    folder.write_rows(segment, make_rows(segment, tokens))
    return segment


def keep(folder: PoolFolder, entry: str, segments: Segments, namespace: str = "default") -> Record:
    """Write an entry, rows first."""
    for name, tokens in segments:
        write_rows(folder, name, tokens, namespace)
    assert folder.model is not None
    record = make_record(entry, segments, namespace, folder.model)
    folder.write_record(record)
    return record


def same_record(a: Record, b: Record) -> bool:
    names = [field.name for field in dataclasses.fields(Record)]
    arrays = ("tokens", "approximate", "embedding")
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) and getattr(a, name).dtype == getattr(b, name).dtype
        for name in arrays
    ) and all(getattr(a, name) == getattr(b, name) for name in names if name not in arrays)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return (
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.view(torch.uint8))
    )


def verify(folder: PoolFolder, record: Record, segments: Segments) -> None:
    """Everything of an entry is bit for bit what its ids say, or this fails."""
    assert same_record(
        record, make_record(record.id, segments, record.namespace, folder.model or folder.found.models[record.model])
    )
    for segment in record.segments:
        stored = folder.rows(segment.id)
        for layer, (key, value) in enumerate(make_rows(segment.id, segment.tokens)):
            found_key, found_value = stored.layer(layer)
            assert same_bits(found_key, key)
            assert same_bits(found_value, value)


def _seed(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def files(path: Path, pattern: str = "*") -> list[Path]:
    """The files below ``path``, less the owner's lock."""
    return sorted(found for found in path.rglob(pattern) if found.is_file() and found.name != ".lock")


def all_rows(path: Path) -> list[Path]:
    return files(path, "*.safetensors")
