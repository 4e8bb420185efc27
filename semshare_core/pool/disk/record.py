"""What the folder keeps of an entry beside its rows: a record, one line of the database's table ``entries``."""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64

from semshare_core.fingerprint import Fingerprint

SEGMENT_ID = re.compile(r"[0-9a-f]{32}")
CODEC = ("none", 1)
"""How this version lays rows down: the codec's name and version."""

_ARRAYS = (("tokens", np.int64), ("depth", np.uint8), ("embedding", np.float32))
_PLAIN = (
    *("model", "namespace", "id", "created", "expires", "kl_bound", "pinned", "uses"),
    *("weights", "steady", "account", "codec", "codec_version"),
)
_COLUMNS = ", ".join((*(name for name, _ in _ARRAYS), "vectors", *_PLAIN))


class SegmentRef(NamedTuple):
    """A segment as a record names it: which, how many tokens it has, how many bytes of keys and values."""

    id: str
    tokens: int
    n_bytes: int


@dataclass(frozen=True, eq=False)
class Record:
    """An entry without its rows.

    Attributes:
        model: digest of the :class:`Fingerprint` of whose model computed the rows.
        namespace: whose it is.
        id: of the entry, unique in its namespace.
        tokens: int64 [n].
        depth: uint8 [n], approximate reuses behind each row.
        embedding: float32 [m, dim], finite, of each part of the text.
        segments: the segments of its rows in the order of the text; n tokens in total.
        created: seconds since the epoch.
        expires: the same, or None: never.
        kl_bound: in nats, the laxest bound that rows of a depth above 0 were made under; infinite: none, or not known.
        pinned: whether it is exempt from eviction.
        uses: how often it served a prompt.
        weights: names the weights that computed the rows.
        steady: leading rows that have the bits of any longer prompt's own pass; None: all that are lossless.
        account: in nats, how far the rows are believed to be from a full prefill's; None: not known.
        codec: how the rows lie in their files; ``codec_version`` of it.

    Raises:
        ValueError: one of these does not hold.
    """

    model: str
    namespace: str
    id: str
    tokens: NDArray[np.int64]
    depth: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    segments: tuple[SegmentRef, ...]
    created: float
    expires: float | None = None
    kl_bound: float = math.inf
    pinned: bool = False
    uses: int = 0
    weights: str = ""
    steady: int | None = None
    account: float | None = None
    codec: str = CODEC[0]
    codec_version: int = CODEC[1]

    def __post_init__(self) -> None:
        n = len(self.tokens)
        if self.tokens.dtype != np.int64 or self.tokens.shape != (n,):
            raise ValueError(f"tokens are {self.tokens.dtype} {self.tokens.shape}, not int64 [n].")
        if self.depth.dtype != np.uint8 or self.depth.shape != (n,):
            raise ValueError(f"depth is {self.depth.dtype} {self.depth.shape}, not uint8 [{n}].")
        if self.embedding.dtype != np.float32 or self.embedding.ndim != 2 or not np.isfinite(self.embedding).all():
            raise ValueError("embedding is not a finite float32 [m, dim].")
        if sum(segment.tokens for segment in self.segments) != n or any(
            segment.tokens < 1 for segment in self.segments
        ):
            raise ValueError(f"segments {self.segments} do not add up to {n} tokens.")
        if not all(SEGMENT_ID.fullmatch(segment.id) and segment.n_bytes >= 0 for segment in self.segments):
            raise ValueError(f"segments {self.segments} name no segments.")
        if not math.isfinite(self.created) or not math.isfinite(self.expires or 0) or self.uses < 0:
            raise ValueError("created, expires and uses are not all finite and not negative.")
        if self.steady is not None and self.steady < 0:
            raise ValueError(f"steady is {self.steady}, not a number of rows.")
        if not self.kl_bound >= 0:
            raise ValueError(f"kl_bound is {self.kl_bound}, not a number of nats.")
        if self.account is not None and not self.account >= 0:
            raise ValueError(f"account is {self.account}, not a number of nats.")

    def write(self, database: sqlite3.Connection) -> None:
        """Keep the record, instead of one with the same model, namespace and id."""
        values = [np.ascontiguousarray(getattr(self, name)).tobytes() for name, _ in _ARRAYS]
        values += [len(self.embedding), *(_plain(getattr(self, name)) for name in _PLAIN)]
        delete(database, self.model, self.namespace, self.id)
        marks = ", ".join("?" * (len(values) + 1))
        columns = f"INSERT INTO entries ({_COLUMNS}, checksum) VALUES ({marks})"
        key = database.execute(columns, [*values, _checksum(values, self.segments)]).lastrowid
        numbered = [(key, position, *segment) for position, segment in enumerate(self.segments)]
        database.executemany("INSERT INTO entry_segments VALUES (?, ?, ?, ?, ?)", numbered)


def _read(database: sqlite3.Connection, key: int) -> Record:
    """The record of a row of the table.

    Raises:
        ValueError: it is not what was written.
        sqlite3.DatabaseError: SQLite cannot read it.
    """
    *values, checksum = database.execute(f"SELECT {_COLUMNS}, checksum FROM entries WHERE key = ?", (key,)).fetchone()
    found = database.execute(
        "SELECT segment, tokens, bytes FROM entry_segments WHERE entry = ? ORDER BY position", (key,)
    )
    segments = tuple(SegmentRef(*segment) for segment in found)
    if _checksum(values, segments) != checksum:
        raise ValueError("it does not match its checksum.")
    arrays = {name: np.frombuffer(value, dtype) for (name, dtype), value in zip(_ARRAYS, values, strict=False)}
    vectors = values[len(_ARRAYS)]
    arrays["embedding"] = arrays["embedding"].reshape(vectors, -1 if vectors else 0)
    plain = dict(zip(_PLAIN, values[len(_ARRAYS) + 1 :], strict=True))
    return Record(**arrays, **plain | {"pinned": bool(plain["pinned"])}, segments=segments)


def read_all(database: sqlite3.Connection) -> Iterator[tuple[int, Record | str]]:
    """Keys of the table in order, each with its record or with why there is none. A damaged table is read as far as it
    goes, from both ends."""
    keys: set[int] = set()
    for order in ("ASC", "DESC"):
        with _damage_passed_over():
            keys.update(key for (key,) in database.execute(f"SELECT key FROM entries ORDER BY key {order}"))
    for key in sorted(keys):
        try:
            yield key, _read(database, key)
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            if isinstance(error, sqlite3.DatabaseError) and not is_damage(error):
                raise
            yield key, str(error).rstrip(".")


@contextmanager
def _damage_passed_over() -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:  # in what SQLite says of it
        return
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether it is the database that is wrong, and not the system. Python 3.10 does not always know."""
    return not isinstance(error, sqlite3.OperationalError) or getattr(error, "sqlite_errorcode", None) == 1


def delete(database: sqlite3.Connection, model: str, namespace: str, entry: str) -> None:
    database.execute("DELETE FROM entries WHERE model = ? AND namespace = ? AND id = ?", (model, namespace, entry))


def write_model(database: sqlite3.Connection, model: Fingerprint) -> None:
    told = json.dumps(dict(model.description), sort_keys=True)
    database.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (model.digest, told))


def read_models(database: sqlite3.Connection) -> dict[str, Fingerprint]:
    """The models that are described, by their digests; damaged descriptions are left out."""
    found = {}
    with _damage_passed_over():
        for digest, text in database.execute("SELECT digest, description FROM models"):
            with suppress(ValueError, TypeError):
                model = Fingerprint(json.loads(text))
                if model.digest == digest:
                    found[digest] = model
    return found


def _plain(value: Any) -> Any:
    """As SQLite gives it back."""
    return int(value) if isinstance(value, (bool, np.integer)) else float(value) if isinstance(value, float) else value


def _checksum(values: Iterable[Any], segments: Iterable[SegmentRef]) -> str:
    """Of a row's values and segments. XXH3 finds damage; it is no protection against someone who means to deceive."""
    found = xxh3_64()
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("ascii", "backslashreplace")
        found.update(f"{type(value).__name__} {len(data)} ".encode())
        found.update(data)
    found.update(repr([tuple(segment) for segment in segments]).encode("ascii", "backslashreplace"))
    return found.hexdigest()
