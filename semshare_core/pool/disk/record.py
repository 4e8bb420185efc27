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

_ARRAYS: dict[str, Any] = {"tokens": np.int64, "approximate": np.bool_, "embedding": np.float32}
_OF_ENTRY = ("namespace", "created", "expires", "account", "pinned", "weights", "steady")
_PLAIN = ("model", "id", "uses", *_OF_ENTRY)
ENTRY_FIELDS = (*_ARRAYS, *_OF_ENTRY)
"""What a record takes over from an entry as it is, and an entry from its record."""

_OF_SEGMENT = "segment, tokens, bytes, codec, codec_version"  # as in SegmentRef
_COLUMNS = ", ".join((*_ARRAYS, "vectors", *_PLAIN))


class SegmentRef(NamedTuple):
    """A segment as a record names it.

    Attributes:
        tokens: how many it has.
        n_bytes: of keys and values, as they are in memory.
        codec: how the rows lie in their file (a name in ``CODECS``); ``codec_version`` of it. Segments of an entry may
            differ in it: what the entry shares with an earlier one stays as it was written.
    """

    id: str
    tokens: int
    n_bytes: int
    codec: str = "none"
    codec_version: int = 1


@dataclass(frozen=True, eq=False)
class Record:
    """An entry without its rows: the fields of :class:`~semshare_core.pool.entry.Entry`, and

    Attributes:
        model: digest of the :class:`Fingerprint` of whose model computed the rows.
        segments: those of its rows, in the order of the text.
        uses: how often it served a prompt.

    Raises:
        ValueError: the fields do not fit together.
    """

    model: str
    namespace: str
    id: str
    tokens: NDArray[np.int64]
    approximate: NDArray[np.bool_]
    embedding: NDArray[np.float32]
    segments: tuple[SegmentRef, ...]
    created: float
    expires: float | None = None
    account: float = 0.0
    pinned: bool = False
    uses: int = 0
    weights: str = ""
    steady: int | None = None

    def __post_init__(self) -> None:
        n = len(self.tokens)
        for name, dtype in _ARRAYS.items():
            array = getattr(self, name)
            if array.dtype != dtype or (array.ndim != 2 if name == "embedding" else array.shape != (n,)):
                raise ValueError(f"{name} is {array.dtype} {array.shape}.")
        if not np.isfinite(self.embedding).all():
            raise ValueError("embedding is not finite.")
        if sum(segment.tokens for segment in self.segments) != n or any(part.tokens < 1 for part in self.segments):
            raise ValueError(f"segments {self.segments} do not add up to {n} tokens.")
        if not all(SEGMENT_ID.fullmatch(segment.id) and segment.n_bytes >= 0 for segment in self.segments):
            raise ValueError(f"segments {self.segments} are none.")
        if not (math.isfinite(self.created) and math.isfinite(self.expires or 0)):
            raise ValueError("created and expires are not finite.")
        for name in ("uses", "account", "steady"):
            if not (getattr(self, name) or 0) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}.")
        if (self.account > 0) != bool(self.approximate.any()):
            raise ValueError(f"the account is {self.account}, of {self.approximate.sum()} approximate rows.")

    def write(self, database: sqlite3.Connection) -> None:
        """Keep the record, instead of one with the same model, namespace and id."""
        values: list[Any] = [np.ascontiguousarray(getattr(self, name)).tobytes() for name in _ARRAYS]
        values += [len(self.embedding), *(_as_stored(getattr(self, name)) for name in _PLAIN)]
        delete(database, self.model, self.namespace, self.id)
        marks = ", ".join("?" * (len(values) + 1))
        insert = f"INSERT INTO entries ({_COLUMNS}, checksum) VALUES ({marks})"
        key = database.execute(insert, [*values, _checksum(values, self.segments)]).lastrowid
        numbered = [(key, position, *segment) for position, segment in enumerate(self.segments)]
        database.executemany("INSERT INTO entry_segments VALUES (?, ?, ?, ?, ?, ?, ?)", numbered)


def _read(database: sqlite3.Connection, key: int) -> Record:
    """Raises ValueError where the row is not what was written, sqlite3.DatabaseError where SQLite cannot read it."""
    *values, checksum = database.execute(f"SELECT {_COLUMNS}, checksum FROM entries WHERE key = ?", (key,)).fetchone()
    found = f"SELECT {_OF_SEGMENT} FROM entry_segments WHERE entry = ? ORDER BY position"
    segments = tuple(SegmentRef(*segment) for segment in database.execute(found, (key,)))
    if _checksum(values, segments) != checksum:
        raise ValueError("it does not match its checksum.")
    fields: dict[str, Any] = dict(zip((*_ARRAYS, "vectors", *_PLAIN), values, strict=True))
    fields |= {name: np.frombuffer(fields[name], dtype) for name, dtype in _ARRAYS.items()}
    vectors = fields.pop("vectors")
    fields["embedding"] = fields["embedding"].reshape(vectors, -1 if vectors else 0)
    return Record(**fields | {"pinned": bool(fields["pinned"])}, segments=segments)


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


def delete_unused_models(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM models WHERE NOT EXISTS (SELECT 1 FROM entries WHERE model = digest)")


def write_model(database: sqlite3.Connection, model: Fingerprint) -> None:
    description = json.dumps(dict(model.description), sort_keys=True)
    database.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", (model.digest, description))


def read_models(database: sqlite3.Connection) -> dict[str, Fingerprint]:
    """The models that are described, by their digests; damaged descriptions are left out."""
    found = {}
    with _damage_passed_over():
        for digest, text in database.execute("SELECT digest, description FROM models"):
            with suppress(ValueError, TypeError, RecursionError):
                model = Fingerprint(json.loads(text))
                if model.digest == digest:
                    found[digest] = model
    return found


def _as_stored(value: Any) -> Any:
    """As SQLite gives it back."""
    return int(value) if isinstance(value, bool | np.integer) else float(value) if isinstance(value, float) else value


def _checksum(values: Iterable[Any], segments: Iterable[SegmentRef]) -> str:
    """Of a row's values and segments. XXH3 finds damage; it is no protection against someone who means to deceive."""
    found = xxh3_64()
    for value in values:
        data = value if isinstance(value, bytes) else repr(value).encode("ascii", "backslashreplace")
        found.update(f"{type(value).__name__} {len(data)} ".encode())
        found.update(data)
    found.update(repr([tuple(segment) for segment in segments]).encode("ascii", "backslashreplace"))
    return found.hexdigest()
