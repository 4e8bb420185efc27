"""Device, host, disk: entries move by use, budgets are kept, and what is on disk is there after a restart."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooled import BYTES_PER_TOKEN, MODEL, books_balance, entry, holds, pool_at, pool_of, rows_of, text
from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool import Entry, ReferencePool, View
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.disk.database import PoolDatabase
from semshare_core.pool.disk_writer import DiskWriter


def tiers(each: Entry) -> set[str | None]:
    return {segment.tier for segment in each.segments}


def found(pool: ReferencePool, tokens: list[int], namespace: str = "here") -> Entry | None:
    prefix = pool.longest_prefix(namespace, np.array(tokens), np.inf)
    return prefix[0] if prefix is not None and prefix[1] == len(tokens) else None


def right(each: Entry | None) -> bool:
    """The rows are those of the tokens, wherever they lie."""
    assert each is not None
    ((keys, values),) = rows_of(each)
    return keys.flatten().tolist() == each.tokens.tolist() and values.flatten().tolist() == list(range(len(each)))


# --- host --------------------------------------------------------------------------------------------------------


def test_what_leaves_the_device_goes_to_the_host_and_then_out() -> None:
    pool = pool_of(100, host_bytes=100 * BYTES_PER_TOKEN)
    kept = [entry(text(seed)) for seed in range(5)]
    for each in kept:
        pool.add(each)
    assert [tiers(each) for each in kept[1:]] == [{"host"}, {"host"}, {"device"}, {"device"}]
    assert not holds(pool, kept[0])
    assert all(holds(pool, each) for each in kept[1:])
    stats = pool.stats()
    assert (stats.device_bytes, stats.host_bytes, stats.bytes) == tuple(n * BYTES_PER_TOKEN for n in (80, 80, 160))
    assert stats.evictions == 1
    assert books_balance(pool)


def test_use_brings_back() -> None:
    pool = pool_of(100, host_bytes=100 * BYTES_PER_TOKEN)
    kept = [entry(text(seed)) for seed in range(4)]
    for each in kept:
        pool.add(each)
    pool.touch([kept[0]])
    pool.flush()
    assert tiers(kept[0]) == {"device"}
    assert sorted(map(tiers, kept), key=str) == [{"device"}, {"device"}, {"host"}, {"host"}]
    assert books_balance(pool)


# --- disk --------------------------------------------------------------------------------------------------------


def test_what_memory_has_no_room_for_is_on_disk(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, 100)
    kept = [entry(text(seed)) for seed in range(8)]
    for each in kept:
        assert pool.add(each)
    pool.flush()
    assert sum(tiers(each) == {"device"} for each in kept) == 2
    assert all(right(found(pool, each.tokens.tolist())) for each in kept)
    stats = pool.stats()
    assert (stats.entries, stats.evictions) == (8, 0)
    assert (stats.bytes, stats.disk_bytes) == (80 * BYTES_PER_TOKEN, 320 * BYTES_PER_TOKEN)
    assert books_balance(pool)


def test_use_brings_back_from_disk(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, 100)
    kept = [entry(text(seed)) for seed in range(4)]
    for each in kept:
        pool.add(each)
    pool.flush()
    view = View(kept[0], 40)
    assert not view.spans[0].rows.in_memory
    pool.touch([kept[0]])
    pool.flush()
    assert tiers(kept[0]) == {"device"}
    assert View(kept[0], 40).spans[0].rows.in_memory
    assert view.spans[0].rows.layer(0)[0].flatten().tolist() == kept[0].tokens.tolist(), "a reader reads on"
    assert pool.stats().bytes <= 100 * BYTES_PER_TOKEN
    assert books_balance(pool)


def test_the_disk_has_a_budget_too(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, 100, disk_bytes=200 * BYTES_PER_TOKEN)
    kept = [entry(text(seed)) for seed in range(12)]
    for each in kept:
        assert pool.add(each)
        pool.flush()
        assert pool.stats().disk_bytes <= 200 * BYTES_PER_TOKEN
    assert pool.stats().entries == 5
    assert pool.stats().evictions == 7
    assert books_balance(pool)
    pool.close()
    again = pool_at(tmp_path)
    assert again.stats().entries == 5
    assert sum(path.suffix == ".safetensors" for path in tmp_path.rglob("*")) == 5


def test_what_leaves_the_pool_leaves_the_disk(tmp_path: Path) -> None:
    pool = pool_at(tmp_path)
    for seed in range(3):
        pool.add(entry(text(seed), str(seed % 2)))
    pool.clear("0")
    pool.flush()
    assert sum(path.suffix == ".safetensors" for path in tmp_path.rglob("*")) == 1
    pool.clear()
    pool.flush()
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"]


# --- restart -----------------------------------------------------------------------------------------------------


def test_everything_comes_back(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, ttl_seconds=1000)
    system = text(0, 64)
    kept = [entry(system + text(seed), "a", seed=seed) for seed in range(1, 4)]
    kept.append(entry(text(9), "b", approximate=[0] * 30 + [1] * 10, seed=9, pinned=True))
    for each in kept:
        pool.add(each)
    before = pool.stats()
    pool.close()
    assert pool.stats().entries == 0

    again = pool_at(tmp_path, ttl_seconds=1000)
    stats = again.stats()
    assert (stats.entries, stats.tokens, stats.bytes) == (4, before.tokens, 0)
    for each in kept:
        back = found(again, each.tokens.tolist(), each.namespace)
        assert right(back)
        assert back is not None
        assert (back.id, back.pinned, back.expires) == (each.id, each.pinned, each.expires)
        assert back.approximate.tolist() == each.approximate.tolist()
        assert back.embedding.tolist() == each.embedding.tolist()
        assert [(s.id, s.length) for s in back.segments] == [(s.id, s.length) for s in each.segments]
    shared = {found(again, each.tokens.tolist(), "a").segments[0] for each in kept[:3]}  # type: ignore[union-attr]
    assert len(shared) == 1
    assert books_balance(again)
    assert [each.id for each, _ in again.similar("b", kept[3].embedding)] == [kept[3].id]
    assert again.sharing("a", kept[0].tokens, 1) != []


def test_the_bound_of_approximate_rows_comes_back(tmp_path: Path) -> None:
    pool = pool_at(tmp_path)
    pool.add(entry(text(0), approximate=True, account=0.02))
    pool.close()
    again = pool_at(tmp_path)
    assert again.longest_prefix("here", np.array(text(0)), 0.01) is None
    prefix = again.longest_prefix("here", np.array(text(0)), 0.02)
    assert prefix is not None
    assert (prefix[0].account, prefix[1]) == (0.02, 40)
    again.close()


def test_a_beginning_is_found_behind_seventy_others_on_disk_and_after_a_restart(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, 1000)
    query = np.array([*text(0, 100), *text(1)])
    pool.add(entry([*query[:80], *text(2)]))
    for seed in range(70):
        pool.add(entry([*query[:100], *text(3 + seed)], approximate=np.arange(140) >= 20, account=0.2))
    for opened in range(2):
        each = pool if not opened else pool_at(tmp_path, 1000)
        prefix = each.longest_prefix("here", query, 0)
        assert prefix is not None
        assert prefix[1] == 80
        assert None in tiers(prefix[0]), "rows of it are on disk only"
        assert right(prefix[0])
        each.close()


def test_what_is_divided_after_a_restart_comes_back_divided(tmp_path: Path) -> None:
    pool = pool_at(tmp_path)
    one = entry(text(0, 64) + text(1))
    pool.add(one)
    pool.close()
    pool = pool_at(tmp_path)
    other = entry(text(0, 64) + text(2))
    assert pool.add(other)
    assert len(other.segments) == 2
    pool.flush()
    assert books_balance(pool)
    pool.close()
    pool = pool_at(tmp_path)
    assert right(found(pool, one.tokens.tolist()))
    assert right(found(pool, other.tokens.tolist()))
    assert sum(path.suffix == ".safetensors" for path in tmp_path.rglob("*")) == 3


def test_what_expired_meanwhile_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_at(tmp_path, ttl_seconds=10)
    pool.add(entry(text(0)))
    pool.close()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 11)
    assert pool_at(tmp_path).stats().entries == 0


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    pool = pool_at(tmp_path)
    pool.add(entry(text(0)))
    pool.flush()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    reader = pool_at(tmp_path, read_only=True)
    assert right(found(reader, text(0)))
    assert reader.add(entry(text(1)))
    reader.clear()
    reader.flush()
    reader.close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# --- trouble -----------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_nothing_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_at(tmp_path, 100)

    def full(*_: object) -> int:
        raise PoolFileError("No space left on the disk.")

    monkeypatch.setattr(PoolFolder, "write_rows", full)
    kept = [entry(text(seed)) for seed in range(6)]
    with pytest.warns(PoolWarning, match="No space left") as told:
        assert all([*map(pool.add, kept), pool.flush() is None])
    assert len(told) == 1
    stats = pool.stats()
    assert (stats.entries, stats.evictions, stats.disk_bytes) == (2, 4, 0)
    assert books_balance(pool)


@pytest.mark.filterwarnings("error::semshare_core.errors.PoolWarning")
def test_a_job_that_fails_does_not_keep_those_behind_it_from_being_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its thread ended, whoever waited for it got an error, and nothing was written any more."""
    pool, write = pool_at(tmp_path, 100), PoolFolder.write_rows
    heard: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: heard.append(told.exc_type))

    def full_once(*given: Any) -> int:
        monkeypatch.setattr(PoolFolder, "write_rows", write)
        raise PoolFileError("No space left on the disk.")

    monkeypatch.setattr(PoolFolder, "write_rows", full_once)
    for seed in range(2):
        assert pool.add(entry(text(seed)))
        pool.flush()
    assert heard == [PoolWarning]
    assert pool.stats().disk_bytes > 0
    pool.close()


def test_rows_that_are_damaged_leave_the_pool_when_they_are_used(tmp_path: Path) -> None:
    pool = pool_at(tmp_path, 100)
    kept = [entry(text(seed)) for seed in range(4)]
    for each in kept:
        pool.add(each)
    pool.close()
    for path in tmp_path.rglob("*.safetensors"):
        damaged = bytearray(path.read_bytes())
        damaged[-3] ^= 1
        path.write_bytes(damaged)
    pool = pool_at(tmp_path)
    pool.touch([kept[0]])
    with pytest.warns(PoolWarning):
        pool.flush()
    assert found(pool, kept[0].tokens.tolist()) is None
    assert books_balance(pool)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = st.sampled_from(["add", "add", "add", "touch", "discard", "clear", "flush", "restart"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 11)), max_size=16))


@given(histories(), st.integers(20, 100), st.integers(0, 60), st.integers(60, 300))
@settings(deadline=None, max_examples=15)
def test_any_history(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]], device: int, host: int, disk: int
) -> None:
    """Budgets are kept, the books balance and every row is right, whatever happened, in whatever order."""
    path = tmp_path_factory.mktemp("pool")
    limits = {"host_bytes": host * BYTES_PER_TOKEN, "disk_bytes": disk * BYTES_PER_TOKEN, "min_tokens": 1}
    pool = pool_at(path, device, block_tokens=2, **limits)
    trunk = text(0, 30)
    for kind, number in history:
        tokens = trunk[: 2 * number + 2] + text(number, 6 + number)
        if kind == "add":
            pool.add(entry(tokens, str(number % 2), seed=number))
        elif kind in ("touch", "discard"):
            known = found(pool, tokens, str(number % 2))
            if known is not None:
                getattr(pool, kind)([known])
        elif kind == "clear":
            pool.clear(str(number % 2) if number else None)
        elif kind == "flush":
            pool.flush()
        else:
            pool.close()
            pool = pool_at(path, device, block_tokens=2, **limits)
        used, budget = pool._tiers.used, pool._tiers.budget
        assert used["device"] <= budget["device"]
        assert used["host"] <= budget["host"]
    pool.flush()
    assert books_balance(pool)
    assert pool._tiers.used["disk"] <= pool._tiers.budget["disk"]
    assert all(right(each) for each in pool._entries.chosen(None))
    entries = {each.id for each in pool._entries.chosen(None) if all(s.stored for s in each.segments)}
    pool.close()
    with PoolFolder(path, MODEL) as folder:
        assert {record.id for record in folder.records()} == entries
        assert not folder.found.skipped


def test_readers_do_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While rows are being written, looking up, touching and adding go on."""
    pool = pool_at(tmp_path)
    pool.add(entry(text(0)))
    pool.flush()
    write, begun, go_on = PoolFolder.write_rows, threading.Event(), threading.Event()

    def slow(*args: object) -> int:
        begun.set()
        assert go_on.wait(20)
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(PoolFolder, "write_rows", slow)
    pool.add(entry(text(1)))
    assert begun.wait(20)
    assert right(found(pool, text(0)))
    assert right(found(pool, text(1)))
    pool.touch([pool.longest_prefix("here", np.array(text(0)), 0)[0]])  # type: ignore[index]
    pool.add(entry(text(2)))
    assert pool.stats().entries == 3
    go_on.set()
    pool.flush()
    assert pool.stats().disk_bytes == 120 * BYTES_PER_TOKEN


def test_rows_that_leave_while_they_are_written_end_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread closes the pool, so that they cannot be deleted either."""
    monkeypatch.setattr(DiskWriter, "save", lambda *_: None)  # the writer is late: whoever makes room writes
    pool = pool_at(tmp_path, tokens=60)
    first = entry(text(0))
    assert pool.add(first)
    write = PoolFolder.write_rows

    def closed_meanwhile(folder: PoolFolder, *arguments: Any) -> None:
        write(folder, *arguments)
        pool.discard([first])
        folder.close()

    monkeypatch.setattr(PoolFolder, "write_rows", closed_meanwhile)
    with pytest.warns(PoolWarning, match="closed"):
        assert pool.add(entry(text(1)))
    assert books_balance(pool)


def test_a_disk_that_was_full_for_a_while_gets_what_it_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records and deletions that could not be written: what was dropped stays away, and its bytes are freed."""
    pool = pool_at(tmp_path)
    dropped, kept = entry(text(0)), entry(text(1))
    assert pool.add(dropped)
    pool.flush()
    connect = PoolDatabase._connect

    def full(database: PoolDatabase, uri: str) -> sqlite3.Connection:
        connection = connect(database, uri)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    with monkeypatch.context() as patch, pytest.warns(PoolWarning, match="full"):  # noqa: PT031 - the worker warns
        patch.setattr(PoolDatabase, "_connect", full)
        pool.discard([dropped])
        assert pool.add(kept)
        for seed in range(10, 30):  # more than the pages that are there hold
            assert pool.add(entry(text(seed, 200)))
        pool.flush()
    assert pool.add(entry(text(2)))
    pool.close()
    again = pool_at(tmp_path)
    assert again.stats().entries == 22
    assert found(again, text(0)) is None
    assert right(found(again, text(1)))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 22
    again.close()
