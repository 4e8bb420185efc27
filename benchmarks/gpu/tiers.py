"""The host tier: how rows come from host memory to the device while layers compute, and what moving them costs.

For rows on the device, in pinned and in pageable memory: laying alone, computing alone (layers that take about as long
as their rows) and both. ``overlap`` is what both together save, of the shorter of the two: 1 is all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.laying import (
    TINY,
    HostRows,
    Shape,
    Workload,
    made_up_rows,
    moved,
    prefix,
    same_rows,
    watched_copies,
)
from benchmarks.gpu.part import Options, Record, options, settle, spread, timed
from semshare_core import PoolConfig
from semshare_core.match.plan import ReusePlan
from semshare_core.pool import Entry, ReferencePool
from semshare_core.pool.segment import MemoryRows, Pair, to_devices, to_host
from semshare_core.prefill.feed import Copies

Laid = tuple[ReusePlan, NDArray[np.bool_]]

_REPEATS, _REPEATS_TINY = 5, 2
_SLOW = 4  # layers that take so many times as long as their rows


def main(argv: Sequence[str] | None = None) -> None:
    """Every figure in turn."""
    chosen = options("tiers", __doc__, argv)
    record = Record("tiers", chosen)
    shape = TINY if chosen.tiny else Shape()
    pairs = made_up_rows(shape, chosen.device)
    n_bytes = MemoryRows(pairs).n_bytes
    record.add("rows", f"{n_bytes / 2**20:.0f} MiB in {shape.layers} layers", bytes=n_bytes, **vars(shape))
    workload = Workload(shape, chosen.device)
    places = dict(_places(record, chosen, pairs))
    record.attempt("carry", _carried, chosen, places)
    for name, plan in (("prefix", prefix(shape.tokens)), ("moved", moved(shape.tokens))):
        for place, rows in places.items():
            told = f"{name}, {place}"
            record.attempt(told, _laid, chosen, workload, told, plan, rows, MemoryRows(pairs))
    if chosen.device.type == "cuda":
        record.attempt("kept for copies", _kept_for_copies)
    if chosen.device.type != "cpu":
        record.attempt("straight", _straight, chosen, workload, places["pinned"].pairs)
        record.attempt("own stream", _own_stream, chosen, workload, places["pinned"], MemoryRows(pairs))
    record.attempt("pool", _pool, chosen, pairs)
    record.finish()


def _places(record: Record, chosen: Options, pairs: list[Pair]) -> Iterator[tuple[str, MemoryRows]]:
    """The same rows wherever they can lie; pinned ones as the pool makes them."""
    yield "device", MemoryRows(pairs)
    if chosen.device.type != "cpu":
        for time_of in ("the first time", "again"):  # pinned memory that was freed is given out again
            settle(chosen.device)
            down: list[MemoryRows] = []
            took = timed(partial(_down, pairs, down), chosen.device, 1, warm=0)
            pinned = all(tensor.is_pinned() for pair in down[0].pairs for tensor in pair)
            rate = down[0].n_bytes / took[0] / 1e6
            told = f"{took[0]:.1f} ms, {rate:.1f} GB/s, {'pinned' if pinned else 'NOT pinned'}"
            record.add(f"to_host, {time_of}", told, ms=took[0], pinned=pinned, gb_per_s=rate)
        devices = [chosen.device] * len(pairs)
        took = timed(lambda: to_devices(down[0], devices), chosen.device, 3)
        rate = down[0].n_bytes / min(took) / 1e6
        record.add("to_devices", f"{spread(took)}, {rate:.1f} GB/s", ms=took, gb_per_s=rate)
        yield "pinned", down[0]
    yield "pageable", HostRows([(keys.cpu().clone(), values.cpu().clone()) for keys, values in pairs])


def _down(pairs: list[Pair], to: list[MemoryRows]) -> None:
    to.append(to_host(MemoryRows(pairs)))


def _carried(record: Record, chosen: Options, places: dict[str, MemoryRows]) -> None:
    """One layer's keys: all of them, and most of them, picked here and there."""
    copies = Copies(chosen.device)
    for place, rows in places.items():
        if place == "device":
            continue
        keys = rows.layer(0)[0]
        some = torch.as_tensor(np.flatnonzero(moved(keys.shape[2])[1]))
        for name, picked in (("all rows", slice(0, keys.shape[2])), ("picked rows", some)):
            took = timed(partial(copies.carry, keys, picked), chosen.device, 10)
            count = len(range(keys.shape[2])[picked]) if isinstance(picked, slice) else len(picked)
            rate = count * keys.shape[1] * keys.shape[3] * keys.element_size() / median(took) / 1e6
            record.add(f"carry {name}, {place}", f"{spread(took)}, {rate:.1f} GB/s", ms=took, gb_per_s=rate)


def _laid(
    record: Record, chosen: Options, workload: Workload, name: str, plan: Laid, rows: MemoryRows, near: MemoryRows
) -> None:
    repeats = _REPEATS_TINY if chosen.tiny else _REPEATS

    def lay(compute: bool) -> None:
        workload.run(workload.laid(rows, plan), compute=compute)

    copying = timed(partial(lay, False), chosen.device, repeats)
    _as_long_as(workload, median(copying), chosen)
    computing = timed(lambda: workload.run(None), chosen.device, repeats)
    with watched_copies() as came_from:
        both = timed(partial(lay, True), chosen.device, repeats)
    found = workload.run(workload.laid(rows, plan))
    expected = workload.run(workload.laid(near, plan), compute=False)
    assert found is not None
    assert expected is not None
    same = same_rows(found, expected, plan[1])
    told, values = _overlap(copying, computing, both)
    told = f"{told}; {came_from()}; {same}, as laid on the device"
    record.add(f"laying, {name}", told, same_rows=same, times=workload.times, copies=came_from(), **values)


def _as_long_as(workload: Workload, ms: float, chosen: Options) -> None:
    """Let the layers compute for about so long."""
    workload.times = 8
    one = min(timed(lambda: workload.run(None), chosen.device, 2)) / 8
    workload.times = max(1, round(ms / one))


def _overlap(copying: list[float], computing: list[float], both: list[float]) -> tuple[str, dict[str, Any]]:
    alone, computed, together = median(copying), median(computing), median(both)
    overlap = (alone + computed - together) / min(alone, computed)
    told = f"alone {alone:.2f} ms, computing {computed:.2f} ms, both {together:.2f} ms: overlap {overlap:.2f}"
    return told, {"copying_ms": copying, "computing_ms": computing, "both_ms": both, "overlap": overlap}


def _kept_for_copies(record: Record) -> None:
    """Memory that streams of copies keep to themselves after they are done: no other stream's tensors get it."""
    kept = [part for part in torch.cuda.memory_snapshot() if part["stream"] != 0]
    n_bytes, streams = sum(part["total_size"] for part in kept), len({part["stream"] for part in kept})
    told = f"{n_bytes / 2**20:.0f} MiB of the device's memory, by {streams} streams"
    record.add("kept for copies", told, bytes=n_bytes, streams=streams)


def _straight(record: Record, chosen: Options, workload: Workload, pairs: list[Pair]) -> None:
    """What the card can do: without the feed, from pinned memory, in one stream."""
    copying = timed(lambda: workload.straight(pairs, compute=False), chosen.device, _REPEATS)
    _as_long_as(workload, median(copying), chosen)
    computing = timed(lambda: workload.run(None), chosen.device, _REPEATS)
    told, values = _overlap(copying, computing, timed(lambda: workload.straight(pairs), chosen.device, _REPEATS))
    record.add("straight copies, pinned", told, times=workload.times, **values)


def _own_stream(record: Record, chosen: Options, workload: Workload, rows: MemoryRows, near: MemoryRows) -> None:
    """The caller computes in a stream of his own and is far behind the copies: are the rows still the right ones?"""
    plan = moved(workload.shape.tokens)
    expected = workload.run(workload.laid(near, plan), compute=False)
    copying = timed(lambda: workload.run(workload.laid(rows, plan), compute=False), chosen.device, 1)
    _as_long_as(workload, _SLOW * copying[0], chosen)
    stream = torch.Stream(chosen.device)
    with stream:
        found = workload.run(workload.laid(rows, plan))
    settle(chosen.device)
    assert found is not None
    assert expected is not None
    same = same_rows(found, expected, plan[1])
    record.add("laying in the caller's own stream", same, same_rows=same, times=workload.times)


def _pool(record: Record, chosen: Options, pairs: list[Pair]) -> None:
    """A pool with room for one and a half entries on the device: the second sends the first to the host."""
    n, n_bytes = pairs[0][0].shape[2], MemoryRows(pairs).n_bytes
    config = PoolConfig(max_bytes=n_bytes * 3 // 2, host_bytes=4 * n_bytes, heal=False, min_tokens=1)
    pool = ReferencePool(config, devices=[chosen.device] * len(pairs))
    entries = []
    for number in range(2):
        tokens = np.arange(n) + number * n
        rows = [(keys.clone(), values.clone()) for keys, values in pairs]
        embedding = np.eye(2, 8, dtype=np.float32)[number]
        entries.append(Entry.of_rows("tiers", tokens, rows, np.zeros(n, bool), embedding))
        del rows
        took = timed(partial(pool.add, entries[-1]), chosen.device, 1, warm=0)
        where = [segment.tier for entry in entries for segment in entry.segments]
        told = f"{took[0]:.1f} ms; the entries lie on: {', '.join(map(str, where))}"
        record.add(f"pool, entry {number + 1} added", told, ms=took[0], tiers=where)
    held = [segment.rows for segment in entries[0].segments]
    pinned = all(tensor.is_pinned() for rows in held if isinstance(rows, MemoryRows) for tensor in rows.layer(0))
    record.add("pool, rows on the host", "pinned" if pinned else "not pinned", pinned=pinned)
    pool.close()


if __name__ == "__main__":
    main()
