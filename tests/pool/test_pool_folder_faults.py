"""The pool's folder among leftovers, damage and failing writes: what was there stays, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from semshare_core.errors import (
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    PoolFileError,
    PoolWarning,
)
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.disk.checked_file import FORMAT
from stored_entries import MODEL, OTHER_MODEL, files, keep, make_record, make_rows, same_record, verify

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


def test_leftovers_of_a_killed_writer_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        rows_file, entry_file = files(tmp_path, "*.rows")[0], files(tmp_path, "*.entry")[0]
        folder.write_rows("default", "orphan", make_rows("orphan", 2))
        folder.write_rows("left", "orphan", make_rows("orphan", 2))
    home, space = rows_file.parent.parent, rows_file.parent
    mark = "0123456789abcdef"
    unfinished = home / f"{mark * 2}.{mark}.part"
    unfinished.mkdir()
    (home / ("f" * 32)).mkdir()
    ours = [
        space / f"{rows_file.name}.{mark}.part",
        space / f"namespace.json.{mark}.part",
        home / f"pool.json.{mark}.part",
        unfinished / "namespace.json",
    ]
    foreign = [
        *(
            place / name
            for place in (tmp_path, home, space)
            for name in ("notes.txt", "x.rows", f"y.entry.{mark}.part")
        ),
        space / f"{rows_file.name}.{mark}.part.txt",
        space / f"{rows_file.stem}.rows.part",
        unfinished.with_suffix(".parts"),
    ]
    for path in [*ours, *foreign]:
        path.write_text("something")
    (space / ("e" * 32 + ".rows")).symlink_to(space / "notes.txt")
    (space / ("d" * 32 + ".rows")).mkdir()
    with PoolFolder(tmp_path, MODEL) as folder:
        (record,) = folder.records()
        verify(folder, record)
    expected = {rows_file, entry_file, space / "namespace.json", home / "pool.json", *foreign}
    assert {path for path in files(tmp_path) if not path.is_symlink()} == expected
    assert all(path.read_text() == "something" for path in foreign)
    assert (space / ("e" * 32 + ".rows")).is_symlink()
    assert (space / ("d" * 32 + ".rows")).is_dir()


def test_rows_stay_while_a_record_cannot_be_read(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
    entry, rows = files(tmp_path, "*.entry")[0], files(tmp_path, "*.rows")[0]
    content = entry.read_bytes()
    entry.write_bytes(content[:-1])
    with pytest.warns(PoolWarning, match="damaged") as told, PoolFolder(tmp_path, MODEL) as folder:
        assert folder.records() == []
    assert len(told) == 1
    assert rows.exists()
    entry.write_bytes(content)
    with PoolFolder(tmp_path, MODEL) as folder:
        assert len(folder.records()) == 1


def test_files_under_others_names_are_noticed(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        a = files(tmp_path, "*.rows")[0]
        keep(folder, "two", (("b", 3),))
        (b,) = set(files(tmp_path, "*.rows")) - {a}
        b.write_bytes(a.read_bytes())
        verify(folder, make_record("one", (("a", 3),)))
        with pytest.raises(DamagedFileError, match="another segment"):
            folder.rows("default", "b")
    with PoolFolder(tmp_path / "other", OTHER_MODEL) as folder:
        folder.write_rows("default", "a", make_rows("a", 3))
        (path,) = files(tmp_path / "other", "*.rows")
        path.write_bytes(a.read_bytes())
        with pytest.raises(ForeignFileError):
            folder.rows("default", "a")


def test_a_record_without_its_rows_is_passed_over(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3), ("b", 1)))
        folder.remove_rows("default", "b")
    with pytest.warns(PoolWarning, match="1 of its 2 segments"):
        folder = PoolFolder(tmp_path, MODEL)
    with folder:
        assert folder.records() == []
        assert [item.kind for item in folder.skipped()] == ["damaged"]


def test_a_manifest_from_the_future(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        keep(folder, "two", (("a", 3),), namespace="other")
    space = files(tmp_path, "namespace.json")[0]
    space.write_text(json.dumps(json.loads(space.read_text()) | {"format": FORMAT + 1, "more": []}))
    with pytest.warns(PoolWarning, match="newer") as told, PoolFolder(tmp_path, MODEL) as folder:
        assert len(folder.records()) == 1
    assert len(told) == 1
    (pool,) = files(tmp_path, "pool.json")
    pool.write_text(json.dumps(json.loads(pool.read_text()) | {"format": FORMAT + 1}))
    content = pool.read_text()
    for read_only in (True, False):
        with pytest.raises(NewerFileError, match="update SemShare"):
            PoolFolder(tmp_path, MODEL, read_only=read_only)
    assert pool.read_text() == content


def test_a_damaged_pool_manifest_is_told_and_written_again(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
    (pool,) = files(tmp_path, "pool.json")
    content = pool.read_text()
    pool.write_text(content.replace("Tiny", "Tine"))
    with pytest.warns(PoolWarning, match="checksum"), PoolFolder(tmp_path, MODEL) as folder:
        assert len(folder.records()) == 1
    assert pool.read_text() == content


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    with PoolFolder(tmp_path / "pool", MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        keep(folder, "two", (("a", 3),), namespace="other")
    for path in (files(tmp_path, "*.entry")[0], files(tmp_path, "namespace.json")[1].parent):
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    with pytest.warns(PoolWarning, match="2 damaged") as told, PoolFolder(tmp_path / "pool", MODEL) as folder:
        assert folder.records() == []
    assert len(told) == 1
    home = files(tmp_path / "pool", "pool.json")[0].parent
    home.rename(tmp_path / "home")
    home.symlink_to(tmp_path / "home")
    with pytest.raises(PoolFileError, match="symbolic link"):
        PoolFolder(tmp_path / "pool", MODEL)


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
        before = {path: path.read_bytes() for path in files(tmp_path)}
        size = folder.n_bytes()
        with monkeypatch.context() as broken:
            fail_on(broken, call, code)
            for write in (
                lambda: folder.write_rows("default", "a", make_rows("b", 30)),
                lambda: folder.write_rows("default", "b", make_rows("b", 30)),
                lambda: folder.write_record(make_record("two", (("a", 3),))),
                lambda: folder.write_rows("new", "b", make_rows("b", 30)),
            ):
                with pytest.raises(PoolFileError, match=os.strerror(code)):
                    write()
        assert {path: path.read_bytes() for path in files(tmp_path)} == before
        assert folder.n_bytes() == size
        (found,) = folder.records()
        assert same_record(found, record)
        verify(folder, record)
        keep(folder, "two", (("c", 4),), "new")  # and goes on when there is room again


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

            def write(self, data: memoryview) -> int:
                if file.tell():
                    fail()
                return file.write(data[: len(data) // 2])

        return Full()

    monkeypatch.setattr("semshare_core.pool.disk.atomic.os.fdopen", half)


def test_a_folder_that_cannot_be_written_is_told_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on(monkeypatch, "open", errno.EROFS)
    with pytest.raises(PoolFileError, match=os.strerror(errno.EROFS)):
        PoolFolder(tmp_path / "pool", MODEL)
