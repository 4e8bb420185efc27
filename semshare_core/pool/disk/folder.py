"""The pool's folder: what outlives the process.

::

    <path>/.lock                     held by the process that owns the folder
    <path>/pool.db                   records of all entries, of every model and namespace (SQLite)
    <path>/rows/<random>.safetensors a segment: keys and values of consecutive tokens

Rows are on the disk before the record that names them, and are deleted when its deletion is on the disk. So a process may
be killed at any moment, and the next owner finds whole records, and perhaps rows that no record names, which it deletes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from semshare_core.errors import ConfigError, DamagedFileError, PoolFileError
from semshare_core.pool.disk.atomic import PART, damaged, make_folder, names_in, remove, whole_file
from semshare_core.pool.disk.database import PoolDatabase, check
from semshare_core.pool.disk.lock import OwnerLock
from semshare_core.pool.disk.old_format import refuse_old_formats
from semshare_core.pool.disk.record import (
    CODEC,
    SEGMENT_ID,
    Fingerprint,
    Record,
    SegmentRef,
    delete,
    read_all,
    read_models,
    write_model,
)
from semshare_core.pool.disk.segment_file import SegmentFile, encode_rows
from semshare_core.pool.disk.skipped import Skipped, warn_of
from semshare_core.process.forking import renewed
from semshare_core.process.paths import absolute

if TYPE_CHECKING:
    from torch import Tensor

_SEGMENT = re.compile(rf"({SEGMENT_ID.pattern})\.safetensors({PART})?")
_DATABASE_PART = re.compile(rf"pool\.db{PART}(-wal|-shm)?")


class Other(NamedTuple):
    """An entry of another model: what its place in the folder depends on."""

    namespace: str
    segments: tuple[SegmentRef, ...]
    created: float
    uses: int
    pinned: bool


@dataclass
class _Found:
    """What a look into the database brought; ``damaged`` by key."""

    models: dict[str, Fingerprint] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    damaged: dict[int, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


class PoolFolder:
    """Records and rows in a folder. One process owns it and writes; others may read.

    Reading is safe from any thread, also beside a writer; writers wait for each other.

    Args:
        path: made if it is missing, unless ``read_only``.
        model: whose entries are read and written; one :class:`PoolWarning` says that there are others. None: all
            models' entries are read, and nothing is warned of.
        read_only: take no lock, and write nothing. What the owner adds later is not seen.

    Attributes:
        models: those that the folder has entries of, by their digests.
        others: the entries of other models.
        skipped: what could not be used at opening. The owner has deleted what is damaged.

    Raises:
        PoolLockedError: another process owns the folder.
        NewerFileError: it was made by a later version.
        PoolFileError: it cannot be read or written, is no folder, or was made by an earlier version.
    """

    def __init__(self, path: str | Path, model: Fingerprint | None, *, read_only: bool = False) -> None:
        self.path = absolute(path)
        self.model = model
        self.read_only = read_only
        self.models: dict[str, Fingerprint] = {}
        self.others: list[Other] = []
        self.skipped: list[Skipped] = []
        self._rows = self.path / "rows"
        self._database = PoolDatabase(self.path)
        self.changing = self._database.lock
        self._records: list[Record] | None = []
        self._lock: OwnerLock | None = None
        renewed(self._after_fork)
        if not read_only:
            self._lock = OwnerLock(self.path)
        elif not self.path.is_dir():
            raise PoolFileError(f"There is no pool folder {self.path}: name one that a pool has written to.")
        with ExitStack() as undo:
            undo.callback(self.close)
            refuse_old_formats(self.path)
            if not read_only:
                self._take_over()
            elif self._database.exists():
                self._look()
            if model is not None:
                foreign = Skipped(self._database.path, "foreign", f"{self._database.path} has entries of other models.")
                warn_of([*(foreign for _ in self.others), *self.skipped])
            undo.pop_all()

    # --- reading -----------------------------------------------------------------------------------------------------

    def records(self) -> list[Record]:
        """The records that can be used, oldest first; those found at opening the first time, later as they are."""
        found, self._records = self._records, None
        return self._database.read(self._gather).records if found is None else found

    def rows(self, segment: str) -> SegmentFile:
        """Open a segment's rows, memory-mapped. Raises :class:`PoolFileError` as :class:`SegmentFile` does."""
        return SegmentFile(self.rows_path(segment))

    def rows_path(self, segment: str) -> Path:
        return self._rows / f"{segment}.safetensors"

    # --- writing -----------------------------------------------------------------------------------------------------

    def write_rows(self, segment: str, rows: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Keep a segment, instead of one with the same id; see :func:`encode_rows`.

        Raises:
            PoolFileError: full disk, read-only folder and the like; what was there before is there still.
            ValueError: ``rows`` have other shapes.
        """
        self._before_writing()
        with whole_file(self.rows_path(segment)) as file:
            file.write(encode_rows(rows, segment))

    def write_record(self, record: Record, model: Fingerprint | None = None) -> None:
        """Keep a record, instead of one with the same id; of the folder's model, or of ``model``.

        Raises:
            PoolFileError: full disk, read-only folder and the like; what was there before is there still.
        """
        described = model or self.model
        try:
            record.namespace.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"namespace={record.namespace!r} cannot be written to a file: {error.reason}.") from error
        with self._change() as database:
            if described is not None:
                write_model(database, described)
            record.write(database)

    def remove(self, entries: Iterable[tuple[str, str]], segments: Iterable[str] = ()) -> None:
        """Delete records of the folder's model, by namespace and id, then these segments' rows; what is not there, is
        not. Open rows stay valid. Raises :class:`PoolFileError`."""
        named = list(entries)
        if named:
            with self._change() as database:
                for namespace, entry in named:
                    delete(database, self._digest, namespace, entry)
                _drop_models(database)
        self._before_writing()
        for segment in segments:
            remove(self.rows_path(segment))

    def remove_where(self, condition: str, *values: object) -> list[str]:
        """Delete the records of all models that meet a condition on ``entries``, then the rows that no record names any
        more; returns these segments. Raises :class:`PoolFileError`."""
        with self._change() as database:
            doomed = f"SELECT key FROM entries WHERE {condition}"
            named = database.execute(
                f"SELECT DISTINCT segment FROM entry_segments WHERE entry IN ({doomed})", values
            ).fetchall()
            database.execute(f"DELETE FROM entries WHERE {condition}", values)
            still = "SELECT 1 FROM entry_segments WHERE segment = ?"
            gone = [segment for (segment,) in named if database.execute(still, (segment,)).fetchone() is None]
            _drop_models(database)
        for segment in gone:
            remove(self.rows_path(segment))
        return gone

    def clear(self, namespace: str | None = None) -> list[str]:
        """Delete the entries of a namespace, or of all, for every model, and what the log has of them; returns the
        segments. Nothing of them comes back, whatever happens next."""
        gone = self.remove_where("?1 IS NULL OR namespace = ?1", namespace)
        self._database.forget_log()
        return gone

    def evict(self, segment: str) -> list[str]:
        """Delete the records of other models that need a segment; returns the segments that went with them."""
        return self.remove_where("key IN (SELECT entry FROM entry_segments WHERE segment = ?)", segment)

    def close(self) -> None:
        """Give up the ownership. Open rows stay valid; nothing can be written any more."""
        with self.changing:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _after_fork(self) -> None:
        """A forked child reads what was there; it closed its copy of the lock file, and the parent owns the folder."""
        self.read_only, self._lock = True, None

    def __enter__(self) -> PoolFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- opening -----------------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Make the folder ready to be written to: delete what is damaged and what a killed writer left."""
        if self._rows.is_symlink():
            raise PoolFileError(f"{self._rows} is a symbolic link, which is not followed: move the folder itself.")
        for name in names_in(self.path):
            if _DATABASE_PART.fullmatch(name):
                remove(self.path / name)
        lost = self._rows.is_dir() and self._database.is_empty()  # the database comes first
        error = self._database.prepare()
        make_folder(self._rows)
        if lost:
            error = damaged(self._database.path, "it is missing or empty")
        if error is not None:
            self.skipped.append(Skipped.of(self._database.path, error))
        with self._database.change() as database:
            found = self._gather(database)
            database.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in found.damaged])
            _drop_models(database)
            named = {segment for (segment,) in database.execute("SELECT segment FROM entry_segments")}
        self._keep(found)
        for name in names_in(self._rows):
            ours, path = _SEGMENT.fullmatch(name), self._rows / name
            if ours and (ours[1] not in named or ours[2]) and path.is_file() and not path.is_symlink():
                remove(path)

    def _look(self) -> None:
        """Read what is there, and leave everything as it is."""
        try:
            self._keep(self._database.read(self._gather))
        except DamagedFileError as error:
            self.skipped.append(Skipped.of(self._database.path, error))

    def _gather(self, database: sqlite3.Connection) -> _Found:
        found, path = _Found(), self._database.path
        there = set(names_in(self._rows)) if self._rows.is_dir() else set()
        try:
            check(database, path)
        except DamagedFileError as error:  # what can be read is used all the same
            found.skipped.append(Skipped.of(path, error))
        found.models = read_models(database)
        for key, each in read_all(database):
            if isinstance(each, str):
                found.damaged[key] = f"an entry in {path} is damaged: {each}."
            elif missing := sum(self.rows_path(segment.id).name not in there for segment in each.segments):
                all_of_them = len(each.segments)
                found.damaged[key] = (
                    f"an entry in {path}: the rows of {missing} of its {all_of_them} segments are missing."
                )
            elif self.model is not None and each.model != self.model.digest:
                found.others.append(Other(each.namespace, each.segments, each.created, each.uses, each.pinned))
            elif (each.codec, each.codec_version) != CODEC:
                why = f"an entry in {path} has its rows in codec {each.codec!r} {each.codec_version}: update SemShare."
                found.skipped.append(Skipped(path, "newer", why))
            else:
                found.records.append(each)
        found.records.sort(key=lambda record: record.created)
        return found

    def _keep(self, found: _Found) -> None:
        self._records, self.others, self.models = found.records, found.others, found.models
        self.skipped += [
            *found.skipped,
            *(Skipped(self._database.path, "damaged", why) for why in found.damaged.values()),
        ]

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self.changing:
            self._before_writing()
            with self._database.change() as database:
                yield database

    def _before_writing(self) -> None:
        if self._lock is None:
            state = "was opened read-only" if self.read_only else "is closed"
            raise PoolFileError(f"The pool folder {self.path} {state}: nothing is written to it or deleted from it.")
        self._records = None

    @property
    def _digest(self) -> str:
        assert self.model is not None, "opened for all models"
        return self.model.digest


def _drop_models(database: sqlite3.Connection) -> None:
    """Forget the models that have no entries any more."""
    database.execute("DELETE FROM models WHERE digest NOT IN (SELECT model FROM entries)")
