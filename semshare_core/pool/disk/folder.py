"""The pool's folder: what outlives the process.

::

    <path>/.lock                        held by the process that owns the folder
    <path>/pool.db                      records of all entries, of every model and namespace (SQLite)
    <path>/rows/<random>.safetensors    a segment: keys and values of consecutive tokens

Rows are on the disk before the record that names them, and are deleted when its deletion is on the disk. So a process
may be killed at any moment: the next owner finds whole records, and perhaps rows without a record, which it deletes.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from semshare_core.errors import ConfigError, DamagedFileError, ForeignFileError, NewerFileError, PoolFileError
from semshare_core.fingerprint import Fingerprint
from semshare_core.pool.disk import record as table
from semshare_core.pool.disk.atomic import damaged, make_folder, names_in, remove, whole_file
from semshare_core.pool.disk.database import PoolDatabase, check
from semshare_core.pool.disk.lock import OwnerLock
from semshare_core.pool.disk.old_format import refuse_old_formats
from semshare_core.pool.disk.record import SEGMENT_ID, Record, SegmentRef
from semshare_core.pool.disk.segment_file import SegmentFile, encode_rows
from semshare_core.pool.disk.skipped import warn_of
from semshare_core.process.forking import renewed
from semshare_core.process.paths import absolute
from semshare_core.process.whole_file import PART
from semshare_core.slots import CODECS

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
class Contents:
    """What a look into a folder found.

    Attributes:
        models: those that are described, by their digests.
        records: the entries that can be used, oldest first.
        others: the entries of other models.
        skipped: what cannot be used.
        damaged: rows of the table that are no records, by their keys.
    """

    models: dict[str, Fingerprint] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    others: list[Other] = field(default_factory=list)
    skipped: list[PoolFileError] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)


class PoolFolder:
    """Records and rows in a folder. One process owns it and writes; others may read.

    Reading is safe from any thread, also beside a writer; writers wait for each other.

    Args:
        path: made if it is missing, unless ``read_only``.
        model: whose entries are read and written; one :class:`PoolWarning` says that there are others. None: all
            models' entries are read, whatever codec their rows are in, and nothing is warned of.
        read_only: take no lock, and write nothing. What the owner adds later is not seen.
        codec: in which rows are written. Those that are there are read in the codec that they were written in.

    Attributes:
        found: at opening. The owner has deleted what was damaged.
        changing: a lock. Whoever holds it can look and write without anything being written between.

    Raises:
        PoolLockedError: another process owns the folder.
        NewerFileError: it was made by a later version.
        PoolFileError: it cannot be read or written, is no folder, or was made by an earlier version.
    """

    def __init__(
        self, path: str | Path, model: Fingerprint | None, *, read_only: bool = False, codec: str = "none"
    ) -> None:
        self.path = absolute(path)
        self.model = model
        self.read_only = read_only
        self.codec = codec
        self._rows = self.path / "rows"
        self._database = PoolDatabase(self.path)
        self._written = False
        self.changing = self._database.lock
        self._lock: OwnerLock | None = None
        renewed(self._after_fork)
        if not read_only:
            self._lock = OwnerLock(self.path)
        elif not self.path.is_dir():
            raise PoolFileError(f"There is no pool folder {self.path}: name one that a pool has written to.")
        with ExitStack() as undo:
            undo.callback(self.close)
            refuse_old_formats(self.path)
            self.found = self._look() if read_only else self._take_over()
            if model is not None:
                foreign = ForeignFileError(f"{self._database.path} has entries of another model.")
                warn_of([*(foreign for _ in self.found.others), *self.found.skipped])
            undo.pop_all()

    def records(self) -> list[Record]:
        """The entries that can be used, as they are now, oldest first."""
        return self._database.read(self._gather).records if self._written else self.found.records

    def rows(self, segment: str) -> SegmentFile:
        """Open a segment's rows, memory-mapped. Raises :class:`PoolFileError` as :class:`SegmentFile` does."""
        return SegmentFile(self.rows_path(segment))

    def rows_path(self, segment: str) -> Path:
        return self._rows / f"{segment}.safetensors"

    # --- writing: each raises PoolFileError where the disk is full, and the like, and then leaves all as it was -------

    def write_rows(self, segment: str, rows: Sequence[tuple[Tensor, Tensor]]) -> tuple[str, int]:
        """Keep a segment, instead of one with the same id; see :func:`encode_rows`. Returns codec and version."""
        self._before_writing()
        with whole_file(self.rows_path(segment)) as file:
            file.write(encode_rows(rows, segment, self.codec))
        return self.codec, CODECS.get(self.codec).version

    def write_record(self, record: Record, model: Fingerprint | None = None) -> None:
        """Keep a record, instead of one with the same id; of the folder's model, or of ``model``."""
        try:
            record.namespace.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"namespace={record.namespace!r} cannot be written to a file: {error.reason}.") from error
        described = model or self.model
        with self._change() as database:
            if described is not None:
                table.write_model(database, described)
            record.write(database)

    def remove(self, entries: Iterable[tuple[str, str]], segments: Iterable[str] = ()) -> None:
        """Delete records of the folder's model, by namespace and id, then these segments' rows. What is not there need
        not be deleted. Open rows stay valid."""
        if named := list(entries):
            assert self.model is not None, "opened for all models"
            with self._change() as database:
                for namespace, entry in named:
                    table.delete(database, self.model.digest, namespace, entry)
                table.delete_unused_models(database)
        self._before_writing()
        for segment in segments:
            remove(self.rows_path(segment))

    def remove_where(self, condition: str, *values: object) -> list[str]:
        """Delete the records of all models that meet a condition on ``entries``, then the rows that no record names any
        more; returns these segments."""
        doomed = f"SELECT DISTINCT segment FROM entry_segments JOIN entries ON key = entry WHERE {condition}"
        with self._change() as database:
            named = [segment for (segment,) in database.execute(doomed, values)]
            database.execute(f"DELETE FROM entries WHERE {condition}", values)
            table.delete_unused_models(database)
            still = "SELECT 1 FROM entry_segments WHERE segment = ?"
            gone = [segment for segment in named if database.execute(still, (segment,)).fetchone() is None]
        for segment in gone:
            remove(self.rows_path(segment))
        return gone

    def clear(self, namespace: str | None = None) -> list[str]:
        """Delete the entries of a namespace, or of all, for every model; returns the segments. Nothing of them comes
        back, whatever happens next. :meth:`forget_log` is to follow."""
        try:
            (namespace or "").encode()
        except UnicodeEncodeError:  # nothing is written under such a name
            return []
        return self.remove_where("?1 IS NULL OR namespace = ?1", namespace)

    def forget_log(self) -> None:
        """Leave no byte of what was deleted in the database's files."""
        self._before_writing()
        self._database.forget_log()

    def evict(self, segment: str) -> list[str]:
        """Delete the records that need a segment; returns the segments that went with them."""
        return self.remove_where("key IN (SELECT entry FROM entry_segments WHERE segment = ?)", segment)

    def close(self) -> None:
        """Give up the ownership. Open rows stay valid; nothing can be written any more."""
        with self.changing:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> PoolFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        """A forked child reads what was there; it closed its copy of the lock file, and the parent owns the folder."""
        self.read_only, self._lock = True, None

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
        self._written = True

    # --- opening -----------------------------------------------------------------------------------------------------

    def _look(self) -> Contents:
        """Read what is there, and leave everything as it is. Of a damaged database what can be read is used."""

        def look(database: sqlite3.Connection) -> Contents:
            found = self._gather(database)
            try:
                check(database, self._database.path)
            except DamagedFileError as error:
                found.skipped.append(error)
            return found

        try:
            return self._database.read(look) if self._database.exists() else Contents()
        except DamagedFileError as error:
            return Contents(skipped=[error])

    def _take_over(self) -> Contents:
        """Make the folder ready to be written to: delete what is damaged and what a killed writer left."""
        if self._rows.is_symlink():
            raise PoolFileError(f"{self._rows} is a symbolic link, which is not followed: move the folder itself.")
        for name in names_in(self.path):
            if _DATABASE_PART.fullmatch(name):
                remove(self.path / name)
        ours = self._rows.is_dir()
        lost = ours and self._database.is_empty()  # the database comes first
        error = self._database.prepare(ours=ours)
        make_folder(self._rows)
        if lost:
            error = damaged(self._database.path, "it is missing or empty")
        with self._database.change() as database:
            found = self._gather(database)
            database.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in found.damaged])
            table.delete_unused_models(database)
            named = {name for (name,) in database.execute("SELECT segment FROM entry_segments")}
        for name in names_in(self._rows):
            segment, path = _SEGMENT.fullmatch(name), self._rows / name
            if segment and (segment[1] not in named or segment[2]) and path.is_file() and not path.is_symlink():
                remove(path)
        if error is not None:
            found.skipped.append(error)
        return found

    def _gather(self, database: sqlite3.Connection) -> Contents:
        path, there = self._database.path, self._names_of_rows()
        found = Contents(table.read_models(database))
        there |= self._names_of_rows()  # beside a writer: what came, or went, until the database's moment
        readable = _readable_codecs() if self.model is not None else None
        for key, each in table.read_all(database):
            if not isinstance(each, str) and not {self.rows_path(part.id).name for part in each.segments} <= there:
                each = "rows of it are missing"
            if isinstance(each, str):
                found.damaged.append(key)
                found.skipped.append(damaged(path, f"in an entry, {each}"))
            elif self.model is not None and each.model != self.model.digest:
                found.others.append(Other(each.namespace, each.segments, each.created, each.uses, each.pinned))
            elif unreadable := [s for s in each.segments if readable and (s.codec, s.codec_version) not in readable]:
                what = f"An entry in {path} has rows in codec {unreadable[0].codec!r} {unreadable[0].codec_version}: "
                remedy = "import the file that registers it before the pool is opened, or update SemShare."
                found.skipped.append(NewerFileError(what + remedy))
            else:
                found.records.append(each)
        found.records.sort(key=lambda record: record.created)
        return found

    def _names_of_rows(self) -> set[str]:
        return set(names_in(self._rows)) if self._rows.is_dir() else set()


def _readable_codecs() -> set[tuple[str, int]]:
    """Names and versions of the codecs that are registered. What a lossy one made could not be served as lossless."""
    codecs = {name: CODECS.get(name) for name in CODECS.names()}
    return {(name, codec.version) for name, codec in codecs.items() if codec.lossless}
