"""What the pool's folder costs: reading rows back, verified, beside copying them in memory; and opening."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.sections.figure import Figure, Run
from semshare_core.model.fingerprint import fingerprint
from semshare_core.pool.disk import Fingerprint, PoolFolder, Record, SegmentRef
from semshare_core.pool.disk.segment_file import SegmentFile

TOKENS, ENTRIES, ENTRY_TOKENS, REPEATS = 1000, 2000, 500, 7
SEGMENT = "0" * 32


def disk(run: Run) -> Iterator[Figure]:
    """Rows of the run's model, in the system's file cache; entries of 500 tokens without rows of their own."""
    started = time.perf_counter()
    model = fingerprint(run.engine.model, run.engine.tokenizer, "token-table")
    spent = time.perf_counter() - started
    yield Figure("fingerprint of model and tokenizer", f"{1e3 * spent:.0f} ms", "< 300 ms", spent < 0.3)
    with tempfile.TemporaryDirectory() as place, PoolFolder(place, model) as folder:
        yield from _reading(run, folder)
    with tempfile.TemporaryDirectory() as place:
        yield _opening(run, place, model)


def _reading(run: Run, folder: PoolFolder) -> Iterator[Figure]:
    rows = _rows(run, run.tokens(TOKENS))
    megabytes = sum(tensor.nbytes for pair in rows for tensor in pair) / 1e6
    times: dict[str, list[float]] = {"written": [], "in memory": [], "verified": [], "again": []}
    for _ in range(run.count(REPEATS)):
        started = time.perf_counter()
        folder.write_rows(SEGMENT, rows)
        times["written"].append(time.perf_counter() - started)
        stored = folder.rows(SEGMENT)
        for name, source in (("in memory", rows), ("verified", stored), ("again", stored)):
            started = time.perf_counter()
            _copy(source)
            times[name].append(time.perf_counter() - started)
    speeds = {name: megabytes / median(spent) for name, spent in times.items()}
    run.say(f"{megabytes:.0f} MB written, with fsync: {speeds['written']:.0f} MB/s")
    yield Figure(
        f"{megabytes:.0f} MB of rows copied layer by layer: from memory, mapped and verified, mapped again",
        f"{speeds['in memory']:.0f}, {speeds['verified']:.0f}, {speeds['again']:.0f} MB/s",
        items=[times],
    )


def _opening(run: Run, place: str, model: Fingerprint) -> Figure:
    entries = ENTRIES // run.shrink
    dice = np.random.default_rng(0)
    with PoolFolder(place, model) as folder:
        folder.write_rows(SEGMENT, [(torch.zeros(1, 1, ENTRY_TOKENS, 1), torch.zeros(1, 1, ENTRY_TOKENS, 1))])
        for number in range(entries):
            folder.write_record(
                Record(
                    model=model.digest,
                    namespace="default",
                    id=str(number),
                    tokens=dice.integers(0, 50_000, ENTRY_TOKENS),
                    approximate=np.zeros(ENTRY_TOKENS, bool),
                    embedding=dice.standard_normal((1, 576), np.float32),
                    segments=(SegmentRef(SEGMENT, ENTRY_TOKENS, 8 * ENTRY_TOKENS),),
                    created=0.0,
                )
            )
    started = time.perf_counter()
    with PoolFolder(place, model) as again:
        found = len(again.records())
    spent = time.perf_counter() - started
    return Figure(
        f"a folder of {found} entries of {ENTRY_TOKENS} tokens opened, all records read and verified",
        f"{spent:.2f} s = {1e6 * spent / found:.0f} us an entry",
    )


def _rows(run: Run, tokens: int) -> list[tuple[Tensor, Tensor]]:
    config = run.engine.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (1, config.num_key_value_heads, tokens, head_dim)
    dtype = run.engine.model.dtype
    return [(torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)) for _ in range(config.num_hidden_layers)]


def _copy(source: list[tuple[Tensor, Tensor]] | SegmentFile) -> None:
    """What rearranging does at the least: every row of every layer to another place."""
    count = source.n_layers if isinstance(source, SegmentFile) else len(source)
    for index in range(count):
        key, value = source.layer(index) if isinstance(source, SegmentFile) else source[index]
        key.clone()
        value.clone()
