"""The pool's folder among leftovers, damage and failing writes: what was there stays, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import semshare_core
from semshare_core.cli.pool_folder import clear
from semshare_core.errors import (
    DamagedFileError,
    NewerFileError,
    PoolFileError,
    PoolWarning,
)
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.disk.database import MIGRATIONS, newest_format
from stored_entries import (
    MODEL,
    all_rows,
    files,
    keep,
    make_record,
    same_record,
    segment_id,
    verify,
    write_rows,
)

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


def test_leftovers_of_a_killed_writer_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        (kept,) = all_rows(tmp_path)
        write_rows(folder, "orphan", 2)
    rows, mark = tmp_path / "rows", "0123456789abcdef"
    ours = [rows / f"{kept.name}.{mark}.part", rows / f"{'c' * 32}.safetensors", tmp_path / f"pool.db.{mark}.part"]
    foreign = [
        *(place / name for place in (tmp_path, rows) for name in ("notes.txt", "x.safetensors", f"y.db.{mark}.part")),
        rows / f"{kept.name}.{mark}.part.txt",
        rows / f"{kept.stem}.part",
    ]
    for path in [*ours, *foreign]:
        path.write_text("something")
    (rows / f"{'e' * 32}.safetensors").symlink_to(rows / "notes.txt")
    (rows / f"{'d' * 32}.safetensors").mkdir()
    with PoolFolder(tmp_path, MODEL) as folder:
        (record,) = folder.records()
        verify(folder, record, (("a", 3),))
    assert {path for path in files(tmp_path) if not path.is_symlink()} == {kept, tmp_path / "pool.db", *foreign}
    assert all(path.read_text() == "something" for path in foreign)
    assert (rows / f"{'e' * 32}.safetensors").is_symlink()
    assert (rows / f"{'d' * 32}.safetensors").is_dir()


def test_files_under_others_names_are_noticed(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        keep(folder, "two", (("b", 3),))
        a, b = (folder.rows_path(segment_id(name)) for name in "ab")
        b.write_bytes(a.read_bytes())
        with pytest.raises(DamagedFileError, match="another segment"):
            folder.rows(segment_id("b"))


@pytest.mark.parametrize("read_only", [False, True])
def test_an_entry_without_its_rows_is_passed_over(tmp_path: Path, read_only: bool) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3), ("b", 1)))
        folder.remove([], [segment_id("b")])
    with pytest.warns(PoolWarning, match="rows of it are missing"):
        folder = PoolFolder(tmp_path, MODEL, read_only=read_only)
    with folder:
        assert folder.records() == []
        assert [type(error) for error in folder.found.skipped] == [DamagedFileError]
    assert len(all_rows(tmp_path)) == read_only, "the owner deletes what nobody can use"


def test_rows_in_an_unknown_codec_stay_where_they_are(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
        segments = tuple(segment._replace(codec="int8", codec_version=3) for segment in record.segments)
        folder.write_record(replace(record, segments=segments))
    for _ in range(2):
        with pytest.warns(PoolWarning, match="codec 'int8' 3"), PoolFolder(tmp_path, MODEL) as folder:
            assert folder.records() == []
        assert len(all_rows(tmp_path)) == 1


def test_a_database_from_the_future(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
    with closing(sqlite3.connect(tmp_path / "pool.db")) as database:
        database.execute("PRAGMA user_version = 99")
    content = (tmp_path / "pool.db").read_bytes()
    for read_only in (True, False):
        with pytest.raises(NewerFileError, match="update SemShare"):
            PoolFolder(tmp_path, MODEL, read_only=read_only)
    assert (tmp_path / "pool.db").read_bytes() == content
    assert len(all_rows(tmp_path)) == 1


def test_a_database_of_the_format_before_is_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format that comes next: its owner brings the folder up to date, and a reader asks for that."""
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
    before = newest_format()

    def next_format(database: sqlite3.Connection) -> None:
        database.execute("ALTER TABLE entries ADD COLUMN mood TEXT")

    monkeypatch.setattr("semshare_core.pool.disk.database.MIGRATIONS", [*MIGRATIONS, next_format])
    with pytest.raises(PoolFileError, match="open the folder once for writing"):
        PoolFolder(tmp_path, MODEL, read_only=True)
    for read_only in (False, False, True):
        with PoolFolder(tmp_path, MODEL, read_only=read_only) as folder:
            (found,) = folder.records()
            assert same_record(found, record)
    with closing(sqlite3.connect(tmp_path / "pool.db")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (before + 1,)
        assert database.execute("SELECT mood FROM entries").fetchall() == [(None,)]


def test_a_folder_of_an_earlier_version_is_refused_and_can_be_cleared(tmp_path: Path) -> None:
    """Format 3: a folder for the model, in it one for the namespace."""
    home = tmp_path / ("a" * 32)
    inner = home / ("b" * 32)
    inner.mkdir(parents=True)
    for path in (home / "pool.json", inner / "namespace.json", inner / f"{'c' * 32}.entry", inner / f"{'c' * 32}.rows"):
        path.write_text("{}")
    (tmp_path / "notes.txt").write_text("not ours")
    before = files(tmp_path)
    for read_only in (True, False):
        with pytest.raises(PoolFileError, match=f"semshare pool clear {tmp_path}"):
            PoolFolder(tmp_path, MODEL, read_only=read_only)
    assert files(tmp_path) == before
    clear(tmp_path, None)
    assert {path.name for path in files(tmp_path)} == {"notes.txt", "pool.db"}
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    pool, outside = tmp_path / "pool", tmp_path / "outside"
    with PoolFolder(pool, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        (path,) = all_rows(pool)
        path.rename(outside)
        path.symlink_to(outside)
        with pytest.raises(DamagedFileError, match="regular file"):
            folder.rows(segment_id("a"))
        path.unlink()
    for name in ("rows", "pool.db"):
        away = tmp_path / name
        (pool / name).rename(away)
        (pool / name).symlink_to(away)
        with pytest.raises(PoolFileError, match=r"symbolic link|regular file"):
            PoolFolder(pool, MODEL)
        (pool / name).unlink()
        away.rename(pool / name)


BEGIN = """
import os, signal, sys, types
package = sys.modules["semshare_core"] = types.ModuleType("semshare_core")  # without its public names, which need torch
package.__path__ = [sys.argv[1]]
from contextlib import contextmanager
from dataclasses import replace
from semshare_core.errors import PoolFileError
from semshare_core.pool.disk import Fingerprint, PoolFolder, database
model = Fingerprint({"architecture": "Tiny", "weights": "a"})
"""
USED_AND_KILLED = """
folder = PoolFolder(sys.argv[2], model)

@contextmanager
def closing(connection):
    yield connection
    os.kill(os.getpid(), signal.SIGKILL)  # it has committed, and closed nothing

database.closing = closing
folder.write_record(replace(folder.records()[0], uses=7))
"""
READ_BY_SOMEBODY_ELSE = """
os.setuid(65534)
try:
    with PoolFolder(sys.argv[2], model, read_only=True) as folder:
        print([record.uses for record in folder.records()])
except PoolFileError as error:
    print("refused")
"""


def run(script: str, path: Path) -> str:
    package = str(Path(semshare_core.__file__).parent)
    command = [sys.executable, "-c", BEGIN + script, package, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("state", "found"), [("closed", "[1]"), ("killed", "[7]"), ("killed, its index not copied", "refused")]
)
def test_a_reader_of_a_folder_that_it_cannot_write(state: str, found: str) -> None:
    """As on a read-only file system: what was committed is found, or nothing, and nothing is left there."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        path = Path(place) / "pool"
        with PoolFolder(path, MODEL) as folder:
            folder.write_record(replace(keep(folder, "one", (("a", 3),)), uses=1))
        if state != "closed":
            run(USED_AND_KILLED, path)
            assert (path / "pool.db-wal").stat().st_size > 0
        if "not copied" in state:
            (path / "pool.db-shm").unlink()
        for each in [*path.rglob("*"), path]:
            each.chmod(0o555 if each.is_dir() else 0o444)
        before = {each: each.read_bytes() for each in files(path)}
        assert run(READ_BY_SOMEBODY_ELSE, path) == found
        assert {each: each.read_bytes() for each in files(path)} == before


def test_what_a_killed_writer_committed_is_there(tmp_path: Path) -> None:
    for read_only in (True, False):
        with PoolFolder(tmp_path, MODEL) as folder:
            folder.write_record(replace(keep(folder, "one", (("a", 3),)), uses=1))
        run(USED_AND_KILLED, tmp_path)
        with PoolFolder(tmp_path, MODEL, read_only=read_only) as folder:
            assert [record.uses for record in folder.records()] == [7]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
        before = {path: path.read_bytes() for path in files(tmp_path)}
        with monkeypatch.context() as broken:
            fail_on(broken, call, code)
            for name in "ab":
                with pytest.raises(PoolFileError, match=os.strerror(code)):
                    write_rows(folder, name, 30)
        assert {path: path.read_bytes() for path in files(tmp_path)} == before
        (found,) = folder.records()
        assert same_record(found, record)
        verify(folder, record, (("a", 3),))
        keep(folder, "two", (("c", 4),), "new")  # and goes on when there is room again


def test_a_full_disk_leaves_the_database_as_it_was(tmp_path: Path) -> None:
    """SQLite finds no room for the record, as far as it can be made to."""
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
        with pytest.MonkeyPatch.context() as patch:
            connect = sqlite3.connect

            def small(*arguments: Any, **settings: Any) -> sqlite3.Connection:
                database = connect(*arguments, **settings)
                (pages,) = database.execute("PRAGMA page_count").fetchone()
                database.execute(f"PRAGMA max_page_count = {pages}")
                return database

            patch.setattr(sqlite3, "connect", small)
            with pytest.raises(PoolFileError, match="full"):
                folder.write_record(make_record("two", (("a", 30_000),)))
        (found,) = folder.records()
        assert same_record(found, record)
        keep(folder, "two", (("c", 4),), "new")


def fail_on(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    if call != "write":
        monkeypatch.setattr(f"semshare_core.pool.disk.atomic.os.{call}", fail)
        return
    genuine = os.fdopen

    def half(*arguments: Any, **named: Any) -> Any:
        file = genuine(*arguments, **named)

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: object) -> None:
                file.close()

            def write(self, data: bytes) -> None:
                file.write(data[: len(data) // 2])
                fail()

        return Full()

    monkeypatch.setattr("semshare_core.pool.disk.atomic.os.fdopen", half)


def test_a_folder_that_cannot_be_written_is_told_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, "open", errno.EROFS)
    with pytest.raises(PoolFileError, match=os.strerror(errno.EROFS)):
        PoolFolder(tmp_path / "pool", MODEL)
