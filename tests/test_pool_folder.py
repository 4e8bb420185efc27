"""The pool's folder: what is written comes back bit for bit, to its owner alone, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from semshare_core.errors import (
    ConfigError,
    DamagedFileError,
    ForeignFileError,
    NewerFileError,
    PoolFileError,
    PoolLockedError,
    PoolWarning,
)
from semshare_core.pool.disk import Fingerprint, PoolFolder, Record, fingerprint
from stored_entries import MODEL, OTHER_MODEL, keep, make_record, make_rows, same_bits, same_record, verify
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


def files(path: Path, pattern: str = "*") -> list[Path]:
    return sorted(found for found in path.rglob(pattern) if found.is_file() and found.name != ".lock")


def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        written = [keep(folder, "one", (("a", 3), ("b", 5))), keep(folder, "two", (("a", 3), ("c", 1)))]
        other = keep(folder, "one", (("a", 4),), namespace="other")
        size = folder.n_bytes()
    assert size == sum(path.stat().st_size for path in [*files(tmp_path, "*.rows"), *files(tmp_path, "*.entry")])
    for read_only in (False, True):
        with PoolFolder(tmp_path, MODEL, read_only=read_only) as folder:
            records = {(record.namespace, record.id): record for record in folder.records()}
            assert len(records) == 3
            assert folder.n_bytes() == size
            for record in [*written, other]:
                assert same_record(records[record.namespace, record.id], record)
                verify(folder, record)


def test_rows_are_views_of_the_file_and_know_their_size(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        written = folder.write_rows("default", "a", make_rows("a", 7))
        stored = folder.rows("default", "a")
    assert (stored.n_layers, stored.n_tokens, stored.n_bytes) == (3, 7, written)
    (path,) = files(tmp_path, "*.rows")
    assert stored.n_bytes == path.stat().st_size
    key, _ = stored.layer(0)
    assert str(path) in Path("/proc/self/maps").read_text()
    key.zero_()  # a private mapping
    assert same_bits(load_file(path)["00000.k"], make_rows("a", 7)[0][0])


def test_rows_need_not_be_contiguous(tmp_path: Path) -> None:
    key, value = make_rows("a", 9)[0]
    with PoolFolder(tmp_path, MODEL) as folder:
        folder.write_rows("default", "a", [(key[:, :, 2:5], value[:, :, 2:5])])
        found = folder.rows("default", "a").layer(0)
    assert same_bits(found[0], key[:, :, 2:5].contiguous())
    assert same_bits(found[1], value[:, :, 2:5].contiguous())


@pytest.mark.parametrize(
    "rows",
    [[], [(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4, 4))], [(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))]],
    ids=["none", "uneven", "three axes"],
)
def test_rows_of_other_shapes_are_refused(tmp_path: Path, rows: list[Any]) -> None:
    with PoolFolder(tmp_path, MODEL) as folder, pytest.raises(ValueError, match="segment 'a'"):
        folder.write_rows("default", "a", rows)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": np.zeros(3, np.int32)},
        {"depth": np.zeros(2, np.uint8)},
        {"embedding": np.full((1, 2), np.nan, np.float32)},
        {"segments": (("a", 2),)},
        {"segments": (("a", 3), ("b", 0))},
        {"created": float("nan")},
        {"expires": float("inf")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    whole = vars(make_record("one", (("a", 3),)))
    with pytest.raises(ValueError, match=next(iter(change))):
        Record(**(whole | change))


def test_written_again_replaces_and_removed_is_gone(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        folder.write_rows("default", "a", make_rows("a", 6))
        folder.write_record(make_record("one", (("a", 6),)))
        (record,) = folder.records()
        verify(folder, record)
        mapped = folder.rows("default", "a")
        folder.remove_record("default", "one")
        folder.remove_rows("default", "a")
        folder.remove_rows("default", "a")
        folder.remove_record("nobody", "one")
        assert folder.records() == []
        assert folder.n_bytes() == 0
        with pytest.raises(DamagedFileError):
            folder.rows("default", "a")
        assert same_bits(mapped.layer(1)[0], make_rows("a", 6)[1][0])  # whoever has it open keeps it
    assert [path.name for path in files(tmp_path)] == ["pool.json"]  # not even the namespace's name is left


def test_only_the_owner_can_look_into_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with PoolFolder(tmp_path / "pool", MODEL) as folder:
            keep(folder, "one", (("a", 3),))
    finally:
        os.umask(before)
    for path in [tmp_path / "pool", *(tmp_path / "pool").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_names_give_nothing_away(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        for namespace in ("alice", "bob"):
            keep(folder, "the-same-entry", (("the-same-segment", 3),), namespace)
    names = [path.name for path in [*files(tmp_path, "*.rows"), *files(tmp_path, "*.entry")]]
    assert len(set(names)) == len({name.partition(".")[0] for name in names}) == 4
    assert not any(text in str(path) for path in tmp_path.rglob("*") for text in ("alice", "bob", "same"))


def test_it_has_one_owner_and_any_number_of_readers(tmp_path: Path) -> None:
    owner = PoolFolder(tmp_path, MODEL)
    record = keep(owner, "one", (("a", 3),))
    for model in (MODEL, OTHER_MODEL):
        with pytest.raises(PoolLockedError, match=str(tmp_path)):
            PoolFolder(tmp_path, model)
    with PoolFolder(tmp_path, MODEL, read_only=True) as one, PoolFolder(tmp_path, MODEL, read_only=True) as two:
        verify(one, record)
        verify(two, record)
    owner.close()
    owner.close()
    with pytest.raises(PoolFileError, match="is closed"):
        owner.write_record(record)
    PoolFolder(tmp_path, MODEL).close()


def test_a_process_that_is_killed_gives_up_the_folder(tmp_path: Path) -> None:
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / ".lock")], **pipes) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(PoolLockedError, match="another process"):
            PoolFolder(tmp_path, MODEL)
        other.kill()
    PoolFolder(tmp_path, MODEL).close()


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        folder.write_rows("default", "orphan", make_rows("orphan", 2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with PoolFolder(tmp_path, MODEL, read_only=True) as folder:
        for write in (
            lambda: folder.write_rows("default", "b", make_rows("b", 1)),
            lambda: folder.write_record(make_record("two", (("a", 3),))),
            lambda: folder.remove_rows("default", "a"),
            lambda: folder.remove_record("default", "one"),
        ):
            with pytest.raises(PoolFileError, match="read-only"):
                write()
    with pytest.warns(PoolWarning, match="foreign"):
        folder = PoolFolder(tmp_path, OTHER_MODEL, read_only=True)
    assert folder.records() == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("read_only", [True, False])
def test_no_folder_at_all(tmp_path: Path, read_only: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PoolFileError, match="file"):
        PoolFolder(tmp_path / "file", MODEL, read_only=read_only)
    if read_only:
        with pytest.raises(PoolFileError, match="no pool folder"):
            PoolFolder(tmp_path / "none", MODEL, read_only=True)


def test_another_models_folder_is_left_alone_with_one_warning(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, OTHER_MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        folder.write_rows("default", "orphan", make_rows("orphan", 2))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    with pytest.warns(PoolWarning, match="foreign") as told:
        folder = PoolFolder(tmp_path, MODEL)
    with folder:
        assert folder.records() == []
        keep(folder, "two", (("a", 3),))
    assert len(told) == 1
    assert all(path.read_bytes() == content for path, content in before.items())


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
    space.write_text(json.dumps(json.loads(space.read_text()) | {"format": 2, "more": []}))
    with pytest.warns(PoolWarning, match="newer") as told, PoolFolder(tmp_path, MODEL) as folder:
        assert len(folder.records()) == 1
    assert len(told) == 1
    (pool,) = files(tmp_path, "pool.json")
    pool.write_text(json.dumps(json.loads(pool.read_text()) | {"format": 2}))
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


def test_namespaces_of_any_name(tmp_path: Path) -> None:
    names = ["", "../../etc", "a/b", "ümläut 🙂", "\0", "x" * 10_000]
    with PoolFolder(tmp_path, MODEL) as folder:
        for name in names:
            keep(folder, "one", (("a", 1),), name)
        with pytest.raises(ConfigError, match="namespace"):
            folder.write_rows("\ud800", "a", make_rows("a", 1))
    with PoolFolder(tmp_path, MODEL) as folder:
        assert {record.namespace for record in folder.records()} == set(names)


def test_a_fingerprint_tells_models_apart() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    own = fingerprint(model, tokenizer, "token-table")
    assert own == fingerprint(tiny_model("llama"), tiny_tokenizer(), "token-table")
    assert own.digest == Fingerprint(json.loads(json.dumps(dict(own.description)))).digest
    assert len(own.digest) == 32
    changed = tiny_tokenizer()
    changed.add_tokens(["more"])
    others = [
        fingerprint(tiny_model("llama", seed=1), tokenizer, "token-table"),
        fingerprint(tiny_model("mistral"), tokenizer, "token-table"),
        fingerprint(tiny_model("llama_linear"), tokenizer, "token-table"),
        fingerprint(tiny_model("llama").to(torch.bfloat16), tokenizer, "token-table"),
        fingerprint(model, changed, "token-table"),
    ]
    assert len({own.digest, *(other.digest for other in others)}) == 1 + len(others)


def test_a_fingerprint_does_not_depend_on_what_was_called_before(tokenizer: Any) -> None:
    model, used = tiny_model("llama"), tiny_tokenizer()
    used(["a", "longer"], padding=True, truncation=True, max_length=4)
    model.config._name_or_path = "/somewhere/else"
    assert fingerprint(model, used, "token-table") == fingerprint(tiny_model("llama"), tiny_tokenizer(), "token-table")


def test_a_warning_that_is_an_error_leaves_the_folder_free(tmp_path: Path) -> None:
    PoolFolder(tmp_path, OTHER_MODEL).close()
    for _ in range(2):
        with pytest.raises(PoolWarning):
            PoolFolder(tmp_path, MODEL)


def test_opening_a_sound_folder_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with PoolFolder(tmp_path, MODEL) as folder:
                keep(folder, "one", (("a", 3),))
