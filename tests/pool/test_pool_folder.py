"""The pool's folder: what is written comes back bit for bit, to its owner alone, and nothing else is touched."""

from __future__ import annotations

import dataclasses
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

from pooled import entry, pool_at, text
from semshare_core.errors import (
    ConfigError,
    DamagedFileError,
    PoolFileError,
    PoolLockedError,
    PoolWarning,
)
from semshare_core.model.fingerprint import fingerprint
from semshare_core.pool.disk import Fingerprint, PoolFolder, Record, SegmentRef
from stored_entries import (
    MODEL,
    OTHER_MODEL,
    all_rows,
    files,
    keep,
    make_record,
    make_rows,
    refs,
    same_bits,
    segment_id,
    verify,
    write_rows,
)
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")


def test_what_is_written_comes_back_bit_for_bit(tmp_path: Path) -> None:
    entries = {
        ("one", "default"): (("a", 3), ("b", 5)),
        ("two", "default"): (("a", 3), ("c", 1)),
        ("one", "other"): (("a", 4),),
    }
    with PoolFolder(tmp_path, MODEL) as folder:
        for (entry, namespace), segments in entries.items():
            keep(folder, entry, segments, namespace)
    for read_only in (False, True):
        with PoolFolder(tmp_path, MODEL, read_only=read_only) as folder:
            records = folder.records()
            assert len(records) == 3
            assert [record.created for record in records] == sorted(record.created for record in records)
            for record in records:
                verify(folder, record, entries[record.id, record.namespace])


def test_rows_are_views_of_the_file(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        stored = folder.rows(write_rows(folder, "a", 7))
    assert (stored.n_layers, stored.n_tokens) == (3, 7)
    (path,) = all_rows(tmp_path)
    key, _ = stored.layer(0)
    assert str(path) in Path("/proc/self/maps").read_text()
    key.zero_()  # a private mapping
    assert same_bits(load_file(path)["00000.k"], make_rows(segment_id("a"), 7)[0][0])


def test_rows_need_not_be_contiguous(tmp_path: Path) -> None:
    key, value = make_rows("a", 9)[0]
    with PoolFolder(tmp_path, MODEL) as folder:
        folder.write_rows(segment_id("a"), [(key[:, :, 2:5], value[:, :, 2:5])])
        found = folder.rows(segment_id("a")).layer(0)
    assert same_bits(found[0], key[:, :, 2:5].contiguous())
    assert same_bits(found[1], value[:, :, 2:5].contiguous())


@pytest.mark.parametrize(
    "rows",
    [[], [(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4, 4))], [(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))]],
    ids=["none", "uneven", "three axes"],
)
def test_rows_of_other_shapes_are_refused(tmp_path: Path, rows: list[Any]) -> None:
    with PoolFolder(tmp_path, MODEL) as folder, pytest.raises(ValueError, match="segment 'a'"):
        folder.write_rows("a", rows)
    assert not all_rows(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": np.zeros(3, np.int32)},
        {"approximate": np.zeros(2, bool)},
        {"embedding": np.full((1, 2), np.nan, np.float32)},
        {"segments": refs((("a", 2),))},
        {"segments": refs((("a", 3), ("b", 0)))},
        {"segments": (("../../a", 3, 3),)},
        {"created": float("nan")},
        {"expires": float("inf")},
        {"account": float("nan")},
        {"account": -0.1},
        {"account": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_record_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    whole = vars(make_record("one", (("a", 3),))) | {"approximate": np.zeros(3, bool), "account": 0.0}
    if "segments" in change:
        change = {"segments": tuple(SegmentRef(*segment) for segment in change["segments"])}
    with pytest.raises(ValueError, match=next(iter(change))):
        Record(**(whole | change))


def test_written_again_replaces_and_removed_is_gone(tmp_path: Path) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        keep(folder, "one", (("a", 6),))
        (record,) = folder.records()
        verify(folder, record, (("a", 6),))
        mapped = folder.rows(segment_id("a"))
        for _ in range(2):
            folder.remove([("default", "one"), ("nobody", "one")], [segment_id("a")])
        assert folder.records() == []
        with pytest.raises(DamagedFileError):
            folder.rows(segment_id("a"))
        assert same_bits(mapped.layer(1)[0], make_rows(segment_id("a"), 6)[1][0])  # whoever has it open keeps it
    assert [path.name for path in files(tmp_path)] == ["pool.db"]
    content = (tmp_path / "pool.db").read_bytes()
    assert not [text for text in (b"default", b"Tiny", record.tokens.tobytes()) if text in content], (
        "wiped, not unlinked"
    )


def test_nothing_lies_open_between_two_operations(tmp_path: Path) -> None:
    """So a fork inherits no connection, and a reader finds everything in the file itself."""
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        assert not [path for path in Path("/proc/self/fd").iterdir() if "pool.db" in str(path.resolve())]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "pool.db", "rows"]
        with PoolFolder(tmp_path, MODEL, read_only=True) as reader:
            assert len(reader.records()) == 1


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
    """Segments are named by chance: not even who has the same text shows."""
    for number in range(2):
        pool = pool_at(tmp_path / str(number))
        for namespace in ("alice", "bob"):
            pool.add(entry(text(0), namespace))
        pool.close()
    names = [path.name for path in all_rows(tmp_path)]
    assert len(set(names)) == 4
    assert not any(text in str(path) for path in tmp_path.rglob("*") for text in ("alice", "bob"))


def test_it_has_one_owner_and_any_number_of_readers(tmp_path: Path) -> None:
    owner = PoolFolder(tmp_path, MODEL)
    record = keep(owner, "one", (("a", 3),))
    for model in (MODEL, OTHER_MODEL):
        with pytest.raises(PoolLockedError, match=str(tmp_path)):
            PoolFolder(tmp_path, model)
    with PoolFolder(tmp_path, MODEL, read_only=True) as one, PoolFolder(tmp_path, MODEL, read_only=True) as two:
        verify(one, record, (("a", 3),))
        verify(two, record, (("a", 3),))
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
        write_rows(folder, "orphan", 2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with PoolFolder(tmp_path, MODEL, read_only=True) as folder:
        for write in (
            lambda: write_rows(folder, "b", 1),
            lambda: folder.write_record(make_record("two", (("a", 3),))),
            lambda: folder.remove([], [segment_id("a")]),
            lambda: folder.remove([("default", "one")]),
            lambda: folder.clear(),
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
        keep(folder, "two", (("b", 3),))
    before = {path: path.read_bytes() for path in all_rows(tmp_path)}
    with pytest.warns(PoolWarning, match="foreign") as told:
        folder = PoolFolder(tmp_path, MODEL)
    with folder:
        assert folder.records() == []
        assert len(folder.found.others) == 2
        keep(folder, "two", (("c", 3),))
    assert len(told) == 1
    assert all(path.read_bytes() == content for path, content in before.items())
    with pytest.warns(PoolWarning, match="foreign"), PoolFolder(tmp_path, OTHER_MODEL) as folder:
        assert len(folder.records()) == 2


def test_namespaces_of_any_name(tmp_path: Path) -> None:
    names = ["", "../../etc", "a/b", "ümläut 🙂", "\0", "x" * 10_000]
    with PoolFolder(tmp_path, MODEL) as folder:
        for name in names:
            keep(folder, "one", (("a", 1),), name)
        with pytest.raises(ConfigError, match="namespace"):
            folder.write_record(dataclasses.replace(make_record("one", (("a", 1),)), namespace="\ud800"))
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
    with PoolFolder(tmp_path, OTHER_MODEL) as folder:
        keep(folder, "one", (("a", 1),))
    for _ in range(2):
        with pytest.raises(PoolWarning):
            PoolFolder(tmp_path, MODEL)


def test_opening_a_sound_folder_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with PoolFolder(tmp_path, MODEL) as folder:
                keep(folder, "one", (("a", 3),))
