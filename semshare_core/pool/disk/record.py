"""What the folder keeps of an entry beside its rows, and the file it is kept in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from semshare_core.pool.disk.checked_file import About, CheckedFile, damaged, encode, regular_size

_MOST_BYTES = 2**28  # a million tokens take a tenth of it


@dataclass(frozen=True, eq=False)
class Record:
    """An entry without its rows.

    Attributes:
        namespace: whose it is.
        id: of the entry, unique in its namespace.
        tokens: int64 [n].
        depth: uint8 [n], approximate reuses behind each row.
        embedding: float32 [m, dim], finite, of each part of the text.
        segments: id and number of tokens of each piece of rows, in the order of the text; n in total.
        created: seconds since the epoch.
        expires: the same, or None: never.
        kl_bound: in nats, the laxest bound that rows of a depth above 0 were made under; infinite: none, or not known.
        pinned: whether it is exempt from eviction.
        uses: how often it served a prompt.
        weights: names the weights that computed the rows.
        steady: leading rows that have the bits of any longer prompt's own pass; None: all that are lossless.

    Raises:
        ValueError: one of these does not hold.
    """

    namespace: str
    id: str
    tokens: NDArray[np.int64]
    depth: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    segments: tuple[tuple[str, int], ...]
    created: float
    expires: float | None = None
    kl_bound: float = math.inf
    pinned: bool = False
    uses: int = 0
    weights: str = ""
    steady: int | None = None

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if self.tokens.dtype != np.int64 or self.tokens.shape != (n,):
            raise ValueError(f"tokens are {self.tokens.dtype} {self.tokens.shape}, not int64 [n].")
        if self.depth.dtype != np.uint8 or self.depth.shape != (n,):
            raise ValueError(f"depth is {self.depth.dtype} {self.depth.shape}, not uint8 [{n}].")
        if self.embedding.dtype != np.float32 or self.embedding.ndim != 2 or not np.isfinite(self.embedding).all():
            raise ValueError("embedding is not a finite float32 [m, dim].")
        if sum(count for _, count in self.segments) != n or any(count < 1 for _, count in self.segments):
            raise ValueError(f"segments {self.segments} do not add up to {n} tokens.")
        if not math.isfinite(self.created) or not math.isfinite(self.expires or 0) or self.uses < 0:
            raise ValueError("created, expires and uses are not all finite and not negative.")
        if self.steady is not None and self.steady < 0:
            raise ValueError(f"steady is {self.steady}, not a number of rows.")
        if not self.kl_bound >= 0:
            raise ValueError(f"kl_bound is {self.kl_bound}, not a number of nats.")


class EntryAbout(About):
    """The fields of a :class:`Record` that are not arrays."""

    segments: list[tuple[str, int]]
    created: float
    expires: float | None
    pinned: bool
    uses: int
    kl_bound: float | None = None  # JSON has no infinity
    weights: str = ""
    steady: int | None = None


def encode_record(record: Record, fingerprint: str) -> bytes:
    """The content of the record's file. The namespace is not in it: the folder says that."""
    arrays = {"tokens": record.tokens, "depth": record.depth, "embedding": record.embedding}
    about = EntryAbout(
        fingerprint=fingerprint,
        id=record.id,
        segments=list(record.segments),
        created=float(record.created),
        expires=None if record.expires is None else float(record.expires),
        pinned=record.pinned,
        uses=record.uses,
        kl_bound=None if math.isinf(record.kl_bound) else record.kl_bound,
        weights=record.weights,
        steady=record.steady,
    )
    return encode({name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}, about)


def read_record(path: Path, namespace: str, fingerprint: str) -> Record:
    """Read and verify a record's file.

    Raises:
        PoolFileError: it cannot be used; see :class:`CheckedFile` for the kinds.
    """
    if regular_size(path) > _MOST_BYTES:
        raise damaged(path, "it is far too large")
    file = CheckedFile(path, EntryAbout, fingerprint, "np")
    about = file.about
    if set(file.layout) != {"tokens", "depth", "embedding"}:
        raise damaged(path, f"it holds {sorted(file.layout)}")
    try:
        return Record(
            namespace=namespace,
            id=about.id,
            tokens=file.tensor("tokens"),
            depth=file.tensor("depth"),
            embedding=file.tensor("embedding"),
            segments=tuple(about.segments),
            created=about.created,
            expires=about.expires,
            kl_bound=math.inf if about.kl_bound is None else about.kl_bound,
            pinned=about.pinned,
            uses=about.uses,
            weights=about.weights,
            steady=about.steady,
        )
    except (ValueError, TypeError) as error:  # TypeError: a dtype that numpy lacks, or tokens that are one number
        raise damaged(path, str(error)) from error
