"""What left the pool has left memory at once: storages of living tensors are counted, and nobody collects garbage."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pooled import BYTES_PER_TOKEN, books_balance, entry, pool_at, pool_of, text
from semshare_core import PoolConfig
from semshare_core.errors import PoolWarning
from semshare_core.pool import Entry, ReferencePool, View
from semshare_core.pool.disk import PoolFolder
from semshare_core.pool.segment import MemoryRows

Live = Callable[[], int]


def filled(pool: ReferencePool, count: int, namespace: str = "here") -> ReferencePool:
    for seed in range(count):
        assert pool.add(entry(text(seed), namespace))
    return pool


def only(pool: ReferencePool) -> Entry:
    (kept,) = pool._entries.chosen(None)
    return kept


def comes_true(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


# --- ways to leave -----------------------------------------------------------------------------------------------


def cleared(pool: ReferencePool) -> None:
    filled(pool, 10)
    pool.clear()
    filled(pool, 1)


def cleared_one_namespace(pool: ReferencePool) -> None:
    filled(pool, 5)
    filled(pool, 5, "there")
    pool.clear("there")


def evicted(pool: ReferencePool) -> None:
    filled(pool, 100)
    assert pool.stats().evictions == 75


def replaced_by_better_rows(pool: ReferencePool) -> None:
    for account in (0.05, 0.04, 0.03, 0.02, 0.01, 0.0):
        assert pool.add(entry(text(0), approximate=account > 0, account=account))
    assert pool.stats().entries == 1


def continued(pool: ReferencePool) -> None:
    for length in range(40, 240, 20):
        assert pool.add(entry(text(0, length)))
    assert pool.stats().entries == 1


def divided(pool: ReferencePool) -> None:
    for parting in range(200, 0, -20):
        assert pool.add(entry([*text(0, parting), *text(parting, 50)]))
    assert pool.stats().entries == 10


def discarded(pool: ReferencePool) -> None:
    filled(pool, 10)
    pool.discard(list(pool._entries.chosen(None))[:-1])


def came_again(pool: ReferencePool) -> None:
    filled(pool, 1)
    for _ in range(10):
        assert not pool.add(entry(text(0)))


def rejected(pool: ReferencePool) -> None:
    for _ in range(10):
        assert not pool.add(entry(text(0, 2000)))
        assert not pool.add(entry(text(0, 3)))


WAYS = [
    cleared,
    cleared_one_namespace,
    evicted,
    replaced_by_better_rows,
    continued,
    divided,
    discarded,
    came_again,
    rejected,
]


@pytest.mark.parametrize("leave", WAYS)
def test_what_left_the_pool_has_left_memory(leave: Callable[[ReferencePool], None], live: Live) -> None:
    pool = pool_of(1000)
    leave(pool)
    assert live() == pool.stats().bytes
    assert books_balance(pool)
    del pool
    assert live() == 0, "a pool that is dropped is gone, too"


@pytest.mark.parametrize("leave", WAYS)
def test_what_left_a_pool_with_a_folder_has_left_memory(
    leave: Callable[[ReferencePool], None], live: Live, tmp_path: Path
) -> None:
    pool = pool_at(tmp_path, 1000, disk_bytes=1200 * BYTES_PER_TOKEN)
    if leave is evicted:
        filled(pool, 100)
    else:
        leave(pool)
    pool.flush()
    assert live() == pool.stats().bytes <= 1000 * BYTES_PER_TOKEN
    assert books_balance(pool)
    pool.close()
    assert live() == 0


def test_quota_of_a_namespace(live: Live) -> None:
    pool = filled(pool_of(1000, namespace_bytes=100 * BYTES_PER_TOKEN), 20)
    assert live() == pool.stats().bytes == 80 * BYTES_PER_TOKEN


def test_demotion_to_the_host(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are copied there, as from an accelerator."""

    def copied(rows: MemoryRows) -> MemoryRows:
        return rows.part(0, rows.pairs[0][0].shape[2])

    monkeypatch.setattr("semshare_core.pool.tiers.to_host", copied)
    monkeypatch.setattr("semshare_core.pool.tiers.to_devices", lambda rows, devices: copied(rows))
    pool = ReferencePool(
        PoolConfig(max_bytes=100 * BYTES_PER_TOKEN, host_bytes=200 * BYTES_PER_TOKEN), devices=[torch.device("cpu")]
    )
    filled(pool, 20)
    assert live() == pool.stats().bytes == 280 * BYTES_PER_TOKEN
    for each in list(pool._entries.chosen(None)):
        pool.touch([each])
    del each
    pool.flush()
    assert live() == pool.stats().bytes
    assert books_balance(pool)
    pool.clear()
    assert live() == 0


def test_a_device_that_has_less_memory_than_the_budget(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was used does not come back there, is still served from the host, and the thread lives on."""
    pool = ReferencePool(
        PoolConfig(max_bytes=100 * BYTES_PER_TOKEN, host_bytes=200 * BYTES_PER_TOKEN), devices=[torch.device("cpu")]
    )
    filled(pool, 4)

    def full(*_: Any) -> MemoryRows:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("semshare_core.pool.tiers.to_devices", full)

    def use_all() -> None:
        for each in list(pool._entries.chosen(None)):
            pool.touch([each])
            pool.flush()

    with pytest.warns(PoolWarning, match="out of memory"):
        use_all()
    assert pool.stats().entries == 4
    assert live() == pool.stats().bytes
    assert books_balance(pool)


def test_demotion_to_disk_and_back(live: Live, tmp_path: Path) -> None:
    pool = filled(pool_at(tmp_path, 100), 20)
    pool.flush()
    assert live() == pool.stats().bytes == 80 * BYTES_PER_TOKEN
    for each in list(pool._entries.chosen(None)):
        pool.touch([each])
        pool.flush()
        assert live() == pool.stats().bytes
    assert pool.stats().entries == 20
    del each
    pool.close()
    assert live() == 0


def test_a_file_is_mapped_while_it_is_read(live: Live, tmp_path: Path) -> None:
    filled(pool_at(tmp_path), 1).close()
    pool = pool_at(tmp_path)
    view = View(only(pool), 40)
    opened = view.spans[0].rows.opened()
    assert opened is view.spans[0].rows.opened(), "once for all who read"
    pair = opened.layer(0)
    assert live() > 0
    del view, opened, pair
    assert live() == 0
    pool.close()


# --- what waits --------------------------------------------------------------------------------------------------


def test_what_waits_to_be_written_is_not_held(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is slow: of all that was cleared meanwhile only what is being written is still there."""
    writing, goes_on = threading.Event(), threading.Event()
    write = PoolFolder.write_rows

    def slow(self: PoolFolder, *arguments: Any) -> int:
        writing.set()
        assert goes_on.wait(60)
        return write(self, *arguments)

    monkeypatch.setattr(PoolFolder, "write_rows", slow)
    pool = filled(pool_at(tmp_path, 1000), 10)
    assert writing.wait(60)
    pool.clear()
    assert live() <= 40 * BYTES_PER_TOKEN
    goes_on.set()
    pool.flush()
    assert live() == 0
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"]
    pool.close()


def test_what_waits_to_come_back_to_the_device_is_not_held(live: Live) -> None:
    pool = ReferencePool(PoolConfig(max_bytes=100 * BYTES_PER_TOKEN, host_bytes=200 * BYTES_PER_TOKEN))
    filled(pool, 6)
    busy = threading.Event()

    def wait() -> None:
        assert busy.wait(60)

    pool._worker.ask(wait)
    pool.touch(list(pool._entries.chosen(None)))
    pool.clear()
    assert live() == 0
    busy.set()
    pool.flush()
    assert pool._tiers.used == {"device": 0, "host": 0, "disk": 0}


def test_what_expires_in_an_idle_pool_leaves_memory_and_disk(live: Live, tmp_path: Path) -> None:
    pool = filled(pool_at(tmp_path, 1000, ttl_seconds=0.5), 3)
    assert comes_true(lambda: live() == 0)
    assert comes_true(lambda: not [path for path in tmp_path.rglob("*") if path.suffix == ".safetensors"])
    pool.close()


def test_what_expires_in_an_idle_pool_without_a_folder_leaves_memory(live: Live) -> None:
    pool = filled(pool_of(1000, ttl_seconds=0.5), 3)
    assert live() > 0
    assert comes_true(lambda: live() == 0)
    assert pool.stats().entries == 0


def test_what_is_pinned_and_what_came_again_does_not_expire_with_the_rest(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [time.time()]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    pool = pool_of(1000, ttl_seconds=1000)

    def later(seconds: float) -> int:
        """What is in memory when so much time has passed and the thread has looked."""
        clock[0] += seconds
        pool._worker.wake()
        pool.flush()
        return live()

    pool.add(entry(text(0), pinned=True))
    pool.add(entry(text(1)))
    assert later(600) == 80 * BYTES_PER_TOKEN
    assert not pool.add(entry(text(1))), "it comes again, and lives on"
    assert later(600) == 80 * BYTES_PER_TOKEN
    assert later(500) == 40 * BYTES_PER_TOKEN
    pool.close()


def test_a_pool_that_is_dropped_ends_its_thread() -> None:
    gc.disable()
    try:
        before = set(threading.enumerate())
        pool = filled(pool_of(1000, ttl_seconds=1000), 3)
        (thread,) = set(threading.enumerate()) - before
        del pool
        thread.join(20)
        assert not thread.is_alive()
        pool = filled(pool_of(1000, ttl_seconds=1000), 3)
        pool.close()
        assert set(threading.enumerate()) <= before
        filled(pool, 1)  # closed is not dead: another thread begins
        pool.close()
    finally:
        gc.enable()


def test_renewals_do_not_pile_up() -> None:
    """Every time a prompt comes again it is due later: its former times are forgotten."""
    pool = pool_of(1000, ttl_seconds=1000)
    for _ in range(1000):
        pool.add(entry(text(0)))
    assert len(pool._entries._due) <= 64
    pool.close()


# --- peaks -------------------------------------------------------------------------------------------------------


def test_division_has_one_layer_in_memory_twice(live: Live) -> None:
    """A segment of eight layers is divided while the budget is full: nothing is evicted for it, and nothing doubled."""
    layers, n = 8, 64
    rows = [(torch.zeros(1, 1, n, 1), torch.ones(1, 1, n, 1)) for _ in range(layers)]
    whole = MemoryRows(rows)
    del rows
    layer = 2 * 4 * n
    most = []
    clone = torch.Tensor.clone

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        copy = clone(tensor)
        most.append(live())
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "clone", watched)
        parts = whole.divided(20)
    assert max(most) <= (layers + 1) * layer
    assert live() == layers * layer
    assert torch.equal(whole.layer(3)[1], torch.ones(1, 1, n, 1)), "who holds the whole reads on"
    assert [part.pairs[0][0].shape[2] for part in parts] == [20, 44]


@pytest.mark.parametrize("folder", [False, True])
def test_any_history(folder: bool, live: Live, tmp_path: Path) -> None:
    """Whatever comes and goes, memory holds what the pool counts, and the pool keeps its budget."""
    config = {"host_bytes": 200 * BYTES_PER_TOKEN, "namespace_bytes": 800 * BYTES_PER_TOKEN}
    pool = pool_at(tmp_path, 300, **config) if folder else pool_of(300, **config)
    dice = random.Random(0)
    for _ in range(150):
        tokens = text(dice.randrange(4), dice.randrange(16, 60)) + text(dice.randrange(20), dice.randrange(40))
        namespace = str(dice.randrange(2))
        kind = dice.random()
        if kind < 0.7:
            pool.add(entry(tokens, namespace, approximate=dice.random() < 0.2), copy=dice.random() < 0.5)
        elif kind < 0.9:
            found = pool.longest_prefix(namespace, entry(tokens).tokens, 0)
            pool.touch([found[0]] if found else [])
            del found
        elif kind < 0.97:
            pool.discard([each for each in pool._entries.chosen(namespace) if dice.random() < 0.3])
        else:
            pool.clear(namespace)
        pool.flush()
        stats = pool.stats()
        assert live() == stats.bytes
        assert stats.device_bytes <= 300 * BYTES_PER_TOKEN
        assert stats.host_bytes <= 200 * BYTES_PER_TOKEN
    pool.close()
    assert live() == 0
