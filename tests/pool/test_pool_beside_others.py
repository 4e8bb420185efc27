"""A pool's folder beside a writer at work, a reader that reads on, and files of other applications."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pooled import entry, text
from semshare_core import PoolConfig
from semshare_core.errors import PoolFileError
from semshare_core.pool import ReferencePool
from semshare_core.pool.disk import PoolFolder, record
from stored_entries import MODEL, all_rows, keep, segment_id

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


def once_before(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], Any]) -> None:
    """Have ``act`` happen before the next call of a function of ``record``."""
    genuine = getattr(record, name)

    def called(*arguments: Any) -> Any:
        monkeypatch.setattr(record, name, genuine)
        act()
        return genuine(*arguments)

    monkeypatch.setattr(record, name, called)


@pytest.mark.parametrize("log", [True, False], ids=["with a log", "at rest"])
def test_a_reader_beside_a_writer_that_deletes_sees_whole_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: bool
) -> None:
    """What goes while it is read is no damage."""
    with PoolFolder(tmp_path, MODEL) as owner, closing(sqlite3.connect(tmp_path / "pool.db")) as other:
        keep(owner, "one", (("a", 3),))
        if log:  # whoever else reads has the log stay
            other.execute("SELECT * FROM entries").fetchall()
            keep(owner, "two", (("b", 3),))
        once_before(monkeypatch, "_read", lambda: owner.remove([("default", "one")], [segment_id("a")]))
        with PoolFolder(tmp_path, MODEL, read_only=True) as reader:
            assert reader.found.skipped == []
            assert len(reader.found.records) == (2 if log else 0)


def test_a_reader_beside_a_writer_that_adds_sees_whole_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the rows were read when an entry with new rows came."""
    with PoolFolder(tmp_path, MODEL) as owner, closing(sqlite3.connect(tmp_path / "pool.db")) as other:
        keep(owner, "one", (("a", 3),))
        other.execute("SELECT * FROM entries").fetchall()
        keep(owner, "two", (("b", 3),))
        once_before(monkeypatch, "read_models", lambda: keep(owner, "three", (("c", 3),)))
        with PoolFolder(tmp_path, MODEL, read_only=True) as reader:
            assert {found.id for found in reader.found.records} == {"one", "two", "three"}


def test_a_writer_that_never_rests_does_not_keep_readers_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PoolFolder(tmp_path, MODEL) as owner:
        keep(owner, "one", (("a", 3),))
        genuine, count = record.read_models, iter(range(1000))

        def written_again(database: sqlite3.Connection) -> Any:
            found = genuine(database)
            if (number := next(count)) % 2 == 0:  # not within what the writer itself reads
                keep(owner, f"more {number}", ((f"m {number}", 3),))
            return found

        monkeypatch.setattr(record, "read_models", written_again)
        with PoolFolder(tmp_path, MODEL, read_only=True) as reader:
            assert reader.found.records


def test_clearing_beside_one_who_reads_on_says_that_bytes_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semshare_core.pool.disk.database._BUSY_SECONDS", 0.1)
    pool = ReferencePool(PoolConfig(path=tmp_path), folder=PoolFolder(tmp_path, MODEL))
    pool.add(entry(text(0), "a secret name"))
    pool.flush()
    with closing(sqlite3.connect(tmp_path / "pool.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(PoolFileError, match="once more"):
            pool.clear("a secret name")
        assert (pool.stats().entries, all_rows(tmp_path)) == (0, []), "all else is done"
    pool.clear("a secret name")
    assert not [path for path in tmp_path.iterdir() if path.is_file() and b"a secret name" in path.read_bytes()]
    pool.close()


def test_a_namespace_that_nobody_can_have_is_cleared_already(tmp_path: Path) -> None:
    """A shell passes bytes that are no UTF-8 as such a name."""
    pool = ReferencePool(PoolConfig(path=tmp_path), folder=PoolFolder(tmp_path, MODEL))
    pool.add(entry(text(0)))
    assert pool.clear("\udcff") == 0
    pool.close()
    with PoolFolder(tmp_path, MODEL) as folder:
        assert len(folder.records()) == 1


@pytest.mark.parametrize("kind", ["a database", "a text"])
def test_a_file_of_another_application_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pool.db"
    if kind == "a database":
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("CREATE TABLE swimmers (name)")
    else:
        path.write_text("swimming pools\n" * 100)
    before = path.read_bytes()
    with pytest.raises(PoolFileError, match="another folder"):
        PoolFolder(tmp_path, MODEL)
    assert path.read_bytes() == before
    assert not (tmp_path / "rows").exists()
