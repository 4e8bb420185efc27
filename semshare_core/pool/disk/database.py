"""The pool's database: all that is known of entries, of every model in the folder, but their rows.

A connection lives for one operation. So none crosses a fork, and the last one to close has carried everything over
from the log (``pool.db-wal``) to ``pool.db``: a reader finds it there and need not write to the folder.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from semshare_core.errors import DamagedFileError, NewerFileError, PoolFileError
from semshare_core.fingerprint import Fingerprint
from semshare_core.pool.disk.atomic import cannot, damaged, regular_size
from semshare_core.pool.disk.record import Record, is_damage, read_all, read_models, write_model
from semshare_core.process.forking import whole
from semshare_core.process.whole_file import sync_folder

DATABASE = "pool.db"
_BUSY_SECONDS = 10.0
_TRIES = 5  # to read while a writer is at work
_SMALLEST_PAGE = 512  # bytes; SQLite takes a smaller file for an empty database
_MIGRATED_FROM = 4  # the first format in a database; those before it were files of JSON

_OURS = ("models", "entries", "entry_segments")

T = TypeVar("T")


def _create(database: sqlite3.Connection) -> None:
    """Format 4."""
    database.execute("CREATE TABLE models (digest TEXT PRIMARY KEY, description TEXT NOT NULL)")
    database.execute(
        """CREATE TABLE entries (
            key INTEGER PRIMARY KEY, model TEXT NOT NULL, namespace TEXT NOT NULL, id TEXT NOT NULL,
            created REAL NOT NULL, expires REAL, account REAL NOT NULL, pinned INTEGER NOT NULL,
            uses INTEGER NOT NULL, weights TEXT NOT NULL, steady INTEGER, checksum TEXT NOT NULL,
            vectors INTEGER NOT NULL, tokens BLOB NOT NULL, approximate BLOB NOT NULL, embedding BLOB NOT NULL,
            UNIQUE (model, namespace, id))"""
    )
    database.execute(
        """CREATE TABLE entry_segments (
            entry INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE, position INTEGER NOT NULL,
            segment TEXT NOT NULL, tokens INTEGER NOT NULL, bytes INTEGER NOT NULL,
            codec TEXT NOT NULL, codec_version INTEGER NOT NULL,
            PRIMARY KEY (entry, position)) WITHOUT ROWID"""
    )
    database.execute("CREATE INDEX entries_by_segment ON entry_segments (segment)")


MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = [_create]
"""The first makes format 4, each other one the next format from the one before. Never change one that was released."""


def newest_format() -> int:
    """The format of the databases that this version writes (``PRAGMA user_version``)."""
    return _MIGRATED_FROM - 1 + len(MIGRATIONS)


class PoolDatabase:
    """``pool.db`` in a pool's folder.

    Attributes:
        lock: held during every change. Whoever holds it can look and then change, with nothing changed between.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE
        self.lock = whole(threading.RLock())

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def is_empty(self) -> bool:
        """Nothing was ever in it."""
        return not self.exists() or regular_size(self.path) < _SMALLEST_PAGE

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk when the context ends.

        Raises:
            PoolFileError: full disk, read-only folder and the like; nothing is changed.
        """
        with self.lock, _as_our_errors(self.path), closing(self._connect(f"{self.path.as_uri()}?mode=rw")) as database:
            for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "foreign_keys = ON"):
                database.execute(f"PRAGMA {setting}")
            database.execute("BEGIN IMMEDIATE")
            with database:
                yield database

    def forget_log(self) -> None:
        """Leave nothing of what was deleted in the log.

        Raises:
            PoolFileError: another process reads it, and goes on reading.
        """
        with self.lock, _as_our_errors(self.path), closing(self._connect(f"{self.path.as_uri()}?mode=rw")) as database:
            busy, *_ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise PoolFileError(
                f"What was deleted does not come back, but {self.path} still has bytes of it: another process reads "
                "it. Clear the pool once more when that has ended."
            )

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` finds, without leaving anything in the folder, which may be a read-only one.

        Between the operations of a writer there is no log, and the file is read as it is. While there is one, a writer
        is at work or was killed, and SQLite reads both; it may also where the file changed while it was read. ``work``
        sees the database of one moment: that of its first statement.
        """
        for attempt in range(_TRIES):
            before = self._state()
            beside_writer = before[-1] or (attempt and os.access(self.path.parent, os.W_OK))
            at_rest = "" if beside_writer else "&immutable=1"
            try:
                with (
                    _as_our_errors(self.path),
                    closing(self._connect(f"{self.path.as_uri()}?mode=ro{at_rest}")) as database,
                ):
                    if any(kind == "view" and name in _OURS for kind, name, _ in _tables(database)):
                        raise damaged(self.path, "its tables are views")  # whose SQL might never end
                    database.execute("BEGIN")
                    found = work(database)
            except PoolFileError:
                if before == self._state() or attempt == _TRIES - 1:
                    raise
            else:
                if not at_rest or before == self._state():
                    return found
        raise PoolFileError(f"{self.path} is being written all the time: try again, or stop its writer for a moment.")

    def prepare(self, *, ours: bool) -> DamagedFileError | None:
        """Make, migrate or check the database before it is written to.

        Args:
            ours: the folder is a pool's, and so is the database, however damaged.

        Returns:
            What was wrong with a damaged one. A new one has taken its place, with all that could be read.

        Raises:
            NewerFileError: a later version wrote it.
            PoolFileError: it may be somebody else's.
        """
        if not self.exists():
            self._make()
        regular_size(self.path)
        try:
            if not ours and not self.is_empty():
                self.read(lambda database: _version(database, self.path))
            with self.change() as database:
                _migrate(database, self.path)
                check(database, self.path)
        except DamagedFileError as error:
            if not ours:
                raise PoolFileError(
                    f"{self.path} is no pool's database, and the folder was none's until now: it stays. Choose "
                    f"another folder, or move the file away if nobody needs it. ({error})"
                ) from error
            self._replace()
            return error
        return None

    def _make(self) -> None:
        """An empty file for its owner alone; SQLite's other files take over its mode."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            sync_folder(self.path.parent)
        except OSError as error:
            raise cannot("make", self.path, error) from error

    def _replace(self) -> None:
        """Put a new database in the place of a damaged one, with all that can be read."""
        models: dict[str, Fingerprint] = {}
        found: list[Record] = []
        with suppress(DamagedFileError):
            models, found = self.read(_what_can_be_read)
        fresh = PoolDatabase(self.path.parent)
        fresh.path = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.part")
        try:
            fresh._make()
            with fresh.change() as database:
                _migrate(database, fresh.path)
                for model in models.values():
                    write_model(database, model)
                for record in found:
                    record.write(database)
            for suffix in ("-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            os.replace(fresh.path, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise cannot("write", self.path, error) from error
        finally:
            with suppress(OSError):
                fresh.path.unlink(missing_ok=True)

    def _state(self) -> tuple[int, int, int]:
        """Changes when the database does: time and size of the file, size of the log."""
        size, log = regular_size(self.path), 0
        with suppress(FileNotFoundError):
            log = Path(f"{self.path}-wal").stat().st_size
        return self.path.stat().st_mtime_ns, size, log

    def _connect(self, uri: str) -> sqlite3.Connection:
        database = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        database.text_factory = lambda text: text.decode(errors="surrogateescape")  # a checksum finds flipped bits
        database.execute("PRAGMA trusted_schema = OFF")
        return database


def check(database: sqlite3.Connection, path: Path) -> None:
    """Raises :class:`DamagedFileError` unless tables and pages are as we make them; :class:`NewerFileError` too."""
    version = _version(database, path)
    if not version:
        raise damaged(path, "it is empty")
    if version < newest_format():
        raise PoolFileError(
            f"{path} has format {version}, which an earlier version of SemShare wrote: open the folder once for "
            "writing (PoolConfig without read_only), which brings it up to date."
        )
    with closing(sqlite3.connect(":memory:")) as model:
        for migrate in MIGRATIONS:
            migrate(model)
        if _tables(database) != _tables(model):
            raise damaged(path, f"its tables are not those of format {version}")
    (verdict,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(path, str(verdict).strip().replace("\n", " "))


def _migrate(database: sqlite3.Connection, path: Path) -> None:
    version = _version(database, path)
    for number, migrate in enumerate(MIGRATIONS, _MIGRATED_FROM):
        if number > version:
            migrate(database)
            database.execute(f"PRAGMA user_version = {number}")


def _version(database: sqlite3.Connection, path: Path) -> int:
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > newest_format():
        raise NewerFileError(
            f"{path} has format {version}, and this version of SemShare reads up to {newest_format()}: update "
            "SemShare, or choose another folder."
        )
    if version < _MIGRATED_FROM and (version or _tables(database)):
        raise damaged(path, f"there is no format {version}")
    return int(version)


def _tables(database: sqlite3.Connection) -> set[tuple[str, str, str]]:
    return set(database.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def _what_can_be_read(database: sqlite3.Connection) -> tuple[dict[str, Fingerprint], list[Record]]:
    return read_models(database), [found for _, found in read_all(database) if isinstance(found, Record)]


@contextmanager
def _as_our_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except UnicodeDecodeError as error:  # in what SQLite says of it
        raise damaged(path, "its tables have no proper names") from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, str(error)) if is_damage(error) else cannot("use", path, OSError(str(error))) from error
