"""Forgetting, and one budget of the disk, hold for every model that has something in the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pooled import BYTES_PER_TOKEN, books_balance, entry, text
from semshare_core import PoolConfig
from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool import ReferencePool
from semshare_core.pool.disk import Fingerprint, PoolFolder
from stored_entries import all_rows

TESTS = Path(__file__).parents[1]
ENTRIES = 12


def pool_of(path: Path, model: str = "one", **config: int) -> ReferencePool:
    return ReferencePool(PoolConfig(path=path, **config), folder=PoolFolder(path, Fingerprint({"model": model})))


def fill(pool: ReferencePool, namespace: str = "here", count: int = ENTRIES, first: int = 0) -> ReferencePool:
    for seed in range(first, first + count):
        assert pool.add(entry(text(seed), namespace))
    return pool


def clear_and_die(path: Path) -> None:
    pool = fill(pool_of(path))
    pool.flush()
    fill(pool, first=ENTRIES)  # on their way to the disk
    pool.clear("here")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_cleared_does_not_come_back_after_a_kill_right_behind_it(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path)]
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS / "support")))
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert pool_of(tmp_path).stats().entries == 0
    assert not all_rows(tmp_path)


@pytest.mark.filterwarnings("ignore::semshare_core.errors.PoolWarning")
def test_clear_forgets_for_every_model_in_the_folder(tmp_path: Path) -> None:
    fill(fill(pool_of(tmp_path, "one")), "there").close()
    other = fill(pool_of(tmp_path, "other"))
    other.flush()
    assert other.clear("here") == ENTRIES
    assert other.stats().disk_bytes == 0
    assert books_balance(other)
    assert len(all_rows(tmp_path)) == ENTRIES
    other.close()
    one = pool_of(tmp_path, "one")
    assert (one.stats("here").entries, one.stats("there").entries) == (0, ENTRIES)
    one.close()
    other = pool_of(tmp_path, "other")
    other.clear()
    other.close()
    assert pool_of(tmp_path, "one").stats().entries == 0
    content = (tmp_path / "pool.db").read_bytes()
    assert not [word for word in (b"here", b"there", entry(text(0)).tokens.tobytes()) if word in content]


def test_what_is_written_while_the_pool_is_cleared_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer has looked at an entry, and another thread clears before it has written the record."""
    pool = pool_of(tmp_path)
    write = PoolFolder.write_record

    def slow(folder: PoolFolder, *arguments: object) -> None:
        monkeypatch.setattr(PoolFolder, "write_record", write)
        clearing.start()
        clearing.join(0.2)
        write(folder, *arguments)  # type: ignore[arg-type]

    clearing = threading.Thread(target=pool.clear)
    monkeypatch.setattr(PoolFolder, "write_record", slow)
    fill(pool, count=1)
    pool.flush()
    clearing.join(20)
    with PoolFolder(tmp_path, Fingerprint({"model": "one"}), read_only=True) as folder:
        assert folder.records() == []


def test_a_disk_that_cannot_forget_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = fill(pool_of(tmp_path), count=2)
    pool.flush()
    with monkeypatch.context() as broken:
        broken.setattr(PoolFolder, "clear", lambda *_: (_ for _ in ()).throw(PoolFileError("The disk is read-only.")))
        with pytest.raises(PoolFileError, match="read-only"):
            pool.clear()
    assert pool.stats().entries == 0, "memory forgot"
    pool.clear()
    pool.close()
    assert pool_of(tmp_path).stats().entries == 0


@pytest.mark.filterwarnings("ignore::semshare_core.errors.PoolWarning")
def test_one_budget_for_all_models_in_the_folder(tmp_path: Path) -> None:
    """The second model's entries drive out the first one's, oldest first, and its own when those are gone."""
    room = 5 * 40 * BYTES_PER_TOKEN
    fill(pool_of(tmp_path, "one", disk_bytes=room), count=4).close()
    pool = pool_of(tmp_path, "other", disk_bytes=room)
    for seed in range(20, 32):
        assert pool.add(entry(text(seed)))
        pool.flush()  # it is written ...
        pool.flush()  # ... and what had to go for it is deleted
        assert len(all_rows(tmp_path)) <= 5
        assert books_balance(pool)
    assert pool.stats().entries == 5
    pool.close()
    assert pool_of(tmp_path, "one").stats().entries == 0


@pytest.mark.filterwarnings("ignore::semshare_core.errors.PoolWarning")
def test_what_is_worth_more_stays_whosever_it_is(tmp_path: Path) -> None:
    """Of the first model's entries the one that was used often outlives entries of the second that were not."""
    room = 3 * 40 * BYTES_PER_TOKEN
    one = fill(pool_of(tmp_path, "one", disk_bytes=room), count=1)
    often = entry(text(99))
    one.add(often)
    for _ in range(5):
        one.touch([often])
    one._writer.save(often)  # type: ignore[union-attr]
    one.close()
    fill(pool_of(tmp_path, "other", disk_bytes=room), first=20, count=4).close()
    one = pool_of(tmp_path, "one", disk_bytes=room)
    assert [each.id for each in one._entries.chosen(None)] == [often.id]


@pytest.mark.filterwarnings("ignore::semshare_core.errors.PoolWarning")
def test_what_another_model_pinned_stays(tmp_path: Path) -> None:
    room = 2 * 40 * BYTES_PER_TOKEN
    one = pool_of(tmp_path, "one", disk_bytes=room)
    one.add(entry(text(0), pinned=True))
    one.close()
    other = fill(pool_of(tmp_path, "other", disk_bytes=room), first=20, count=3)
    other.flush()
    assert other.stats().disk_bytes == room / 2
    other.close()
    assert pool_of(tmp_path, "one").stats().entries == 1


def test_a_smaller_budget_holds_from_the_start(tmp_path: Path) -> None:
    fill(pool_of(tmp_path, "one")).close()
    with pytest.warns(PoolWarning, match="another model"):
        pool_of(tmp_path, "other", disk_bytes=3 * 40 * BYTES_PER_TOKEN).close()
    assert len(all_rows(tmp_path)) == 3


if __name__ == "__main__":
    clear_and_die(Path(sys.argv[1]))
