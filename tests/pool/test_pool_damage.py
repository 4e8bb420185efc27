"""Whatever happens to a file of the pool: what is handed out is what was written, bit for bit, or an error."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core.errors import DamagedFileError, PoolFileError, PoolWarning
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.disk.segment_file import encode
from stored_entries import MODEL, all_rows, keep, make_record, same_record, segment_id, verify

Damage = Callable[[Path], None]
KINDS = ("pool.db", "*.safetensors")
ENTRIES = {
    ("alice", "one"): (("a", 3), ("b", 2)),
    ("alice", "two"): (("a", 3),),
    ("bob", "one"): (("a", 1),),
}


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """A sound folder with two namespaces."""
    with tempfile.TemporaryDirectory() as place:
        with PoolFolder(place, MODEL) as folder:
            for (namespace, entry), segments in ENTRIES.items():
                keep(folder, entry, segments, namespace)
        yield Path(place)


def change(edit: Callable[[bytearray], bytes | bytearray]) -> Damage:
    return lambda path: path.write_bytes(edit(bytearray(path.read_bytes()))) and None


def flip(at: float, bit: int) -> Damage:
    def edit(content: bytearray) -> bytearray:
        content[int(at * len(content))] ^= 1 << bit
        return content

    return change(edit)


def truncate(at: float) -> Damage:
    return change(lambda content: content[: int(at * len(content))])


def overwrite(at: float, garbage: bytes) -> Damage:
    def edit(content: bytearray) -> bytearray:
        start = int(at * len(content))
        content[start : start + len(garbage)] = garbage
        return content

    return change(edit)


def claim(header_bytes: int) -> Damage:
    """A safetensors header that is said to be so long."""
    return change(lambda content: struct.pack("<Q", header_bytes) + content[8:])


def header(edit: Callable[[dict], dict]) -> Damage:
    """Another header before the same data."""

    def change_header(content: bytearray) -> bytes:
        if content[:1] == b"{":
            return json.dumps(edit(json.loads(content))).encode()
        end = 8 + struct.unpack("<Q", content[:8])[0]
        text = json.dumps(edit(json.loads(content[8:end]))).encode()
        return struct.pack("<Q", len(text)) + text + content[end:]

    return change(change_header)


def huge(fields: dict) -> dict:
    """Tensors that are said to have a terabyte each."""
    for name, tensor in fields.items():
        if name not in ("__metadata__", "fingerprint") and isinstance(tensor, dict):
            tensor["shape"] = [2**40]
            tensor["data_offsets"] = [0, 2**40]
    return fields


def retyped(fields: dict) -> dict:
    """Tensors of another dtype with as many bytes."""
    other = {"I64": "F64", "U8": "I8", "F32": "I32", "BF16": "F16", "F16": "BF16"}
    for tensor in fields.values():
        if isinstance(tensor, dict) and "dtype" in tensor:
            tensor["dtype"] = other[tensor["dtype"]]
    return fields


def reshaped(fields: dict) -> dict:
    for tensor in fields.values():
        if isinstance(tensor, dict) and "shape" in tensor:
            tensor["shape"] = tensor["shape"][::-1]
    return fields


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sparse_terabyte(path: Path) -> None:
    os.truncate(path, 2**40)


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


HEADERS = [header(huge), header(retyped), header(reshaped)]
share = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.builds(flip, share, st.integers(0, 7)),
    st.builds(truncate, share),
    st.builds(overwrite, share, st.binary(min_size=1, max_size=64)),
    st.builds(claim, st.integers(0, 2**64 - 1)),
    st.binary(max_size=200).map(lambda garbage: change(lambda _: garbage)),
    st.text(max_size=50).map(lambda text: change(lambda _: json.dumps({"format": text}).encode())),
)


def check(whole: Path, kind: str, number: int, damage: Damage, read_only: bool) -> None:
    """Damage one file of a copy and open it: what still serves is right, and what does not is told."""
    with tempfile.TemporaryDirectory() as place:
        pool = Path(place) / "pool"
        shutil.copytree(whole, pool)
        found = sorted(pool.rglob(kind))
        path = found[number % len(found)]
        damage(path)
        before = files_of(pool)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                folder = PoolFolder(pool, MODEL, read_only=read_only)
            except PoolFileError:
                assert kind == "pool.db"  # the one file that the whole folder hangs on
                return
        assert all(isinstance(warning.message, PoolWarning) for warning in told)
        assert len(told) <= 2
        with folder:
            serving = set()
            for record in folder.records():
                segments = ENTRIES[record.namespace, record.id]
                assert same_record(record, make_record(record.id, segments, record.namespace))
                try:
                    verify(folder, record, segments)
                except PoolFileError:
                    assert kind == "*.safetensors"
                else:
                    serving.add((record.namespace, record.id))
            assert told or kind == "*.safetensors" or serving == set(ENTRIES)
        if read_only:
            assert files_of(pool) == before
        lost = set(ENTRIES) - serving
        if kind == "*.safetensors":
            assert len({namespace for namespace, _ in lost}) <= 1
        elif not read_only:  # what was lost is gone, and nobody hears of it again
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with PoolFolder(pool, MODEL) as folder:
                    assert {(record.namespace, record.id) for record in folder.records()} == serving
                    keep(folder, "new", (("n", 2),))


def files_of(pool: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in pool.rglob("*") if path.is_file() and path.stat().st_size < 2**30}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 9), damages, st.booleans())
def test_any_damage(whole: Path, kind: str, number: int, damage: Damage, read_only: bool) -> None:
    check(whole, kind, number, damage, read_only)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [
        change(lambda _: b""),
        change(lambda _: b"\xff\xfe" * 40),
        change(lambda _: b"[" * 100_000),
        change(lambda _: b'{"format": 1e999}'),
        change(lambda _: b'{"format": NaN}'),
        truncate(0.5),
        claim(2**40),
        claim(2**64 - 1),
        *HEADERS,
        sparse_terabyte,
        folder_instead,
        pipe_instead,
    ],
    ids=[
        "empty", "not UTF-8", "deep", "infinite", "NaN", "half", "terabyte", "longest", "huge tensors", "other dtypes",
        "other shapes", "sparse terabyte", "folder", "pipe",
    ],
)  # fmt: skip
def test_known_damage(whole: Path, kind: str, damage: Damage) -> None:
    if kind == "pool.db" and damage in HEADERS:
        pytest.skip("it has no such header")
    check(whole, kind, 0, damage, read_only=False)


@pytest.mark.parametrize(
    "change",
    [
        "tokens = x'00'",
        "tokens = 'text'",
        "approximate = x'0000'",
        "embedding = x'0000c07f0000c07f'",
        "vectors = 3",
        "uses = -1",
        "namespace = 'bob'",
        "id = 'two'",
        "created = 'yesterday'",
        "checksum = ''",
    ],
)
def test_a_changed_record_is_none(tmp_path: Path, change: str) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        keep(folder, "other", (("b", 3),))
    with closing(sqlite3.connect(tmp_path / "pool.db", isolation_level=None)) as database:
        database.execute(f"UPDATE entries SET {change} WHERE id = 'one'")
    for read_only in (True, False):
        with pytest.warns(PoolWarning, match="damaged"), PoolFolder(tmp_path, MODEL, read_only=read_only) as folder:
            assert [record.id for record in folder.records()] == ["other"]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entry_segments SET segment = '../../../secret'",
        "UPDATE entry_segments SET tokens = 2",
        "DELETE FROM entry_segments",
    ],
)
def test_a_record_with_changed_segments_is_none(tmp_path: Path, change: str) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
    with closing(sqlite3.connect(tmp_path / "pool.db", isolation_level=None)) as database:
        database.execute(change)
    with pytest.warns(PoolWarning, match="damaged"), PoolFolder(tmp_path, MODEL) as folder:
        assert folder.records() == []


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TRIGGER more AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "CREATE VIEW more AS SELECT 1",
        "DROP TABLE models",
        "PRAGMA user_version = 3",
    ],
)
def test_a_database_with_other_tables_is_made_anew(tmp_path: Path, foreign: str) -> None:
    """As from an archive that somebody made to deceive: none of its SQL ever runs."""
    with PoolFolder(tmp_path, MODEL) as folder:
        record = keep(folder, "one", (("a", 3),))
    with closing(sqlite3.connect(tmp_path / "pool.db", isolation_level=None)) as database:
        database.execute(foreign)
    with pytest.warns(PoolWarning, match="damaged"):
        folder = PoolFolder(tmp_path, MODEL)
    with folder:
        assert [same_record(found, record) for found in folder.records()] == [True]
        keep(folder, "two", (("b", 3),))
        assert len(folder.records()) == 2


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE entries; CREATE VIEW entries AS "
        "WITH RECURSIVE more(key) AS (SELECT 1 UNION ALL SELECT key + 1 FROM more) SELECT key FROM more",
        "UPDATE models SET description = replace(hex(zeroblob(100000)), '0', '[')",
    ],
    ids=["a query without end", "a description without end"],
)
def test_a_database_that_was_made_to_deceive_neither_stops_nor_ends_its_reader(
    tmp_path: Path, change: str, read_only: bool
) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
    with closing(sqlite3.connect(tmp_path / "pool.db", isolation_level=None)) as database:
        database.executescript(change)
    with PoolFolder(tmp_path, None, read_only=read_only) as folder:
        assert len(folder.records()) == ("UPDATE" in change)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"00000.k": torch.zeros(1, 1, 3, 4)},
        {"00000.k": torch.zeros(1, 1, 3, 4), "00001.v": torch.zeros(1, 1, 3, 4)},
        {"00000.k": torch.zeros(1, 3, 4), "00000.v": torch.zeros(1, 3, 4)},
        {"00000.k": torch.zeros(1, 1, 3, 4), "00000.v": torch.zeros(1, 1, 4, 3)},
    ],
    ids=["none", "keys", "gap", "three axes", "uneven"],
)
def test_well_sealed_nonsense_is_no_rows(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    with PoolFolder(tmp_path, MODEL) as folder:
        keep(folder, "one", (("a", 3),))
        (path,) = all_rows(tmp_path)
        told = {"codec": ["none", 1], "tokens": 3, "layers": [[["float32", 1, 4], ["float32", 1, 4]]]}
        path.write_bytes(encode(tensors, segment_id("a"), told))
        with pytest.raises(DamagedFileError):
            folder.rows(segment_id("a")).layer(0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_bits_all_over_a_file(whole: Path, kind: str) -> None:
    """Every byte of the beginning, where a file says what it is, and a thousand of the rest."""
    size = sorted(whole.rglob(kind))[0].stat().st_size
    for place in sorted({*range(min(size, 512)), *range(0, size, max(1, size // 1000))}):
        check(whole, kind, 0, flip((place + 0.5) / size, place % 8), read_only=True)
