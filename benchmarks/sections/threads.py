"""Sixteen threads at one engine with a tiny budget: right answers, kept budgets, no deadlock, no growth."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.tiny_engine import BYTES_PER_TOKEN, tiny_engine
from semshare_core import PoolConfig, SemShareEngine

THREADS, CALLS = 16, 200
NAMESPACES, PROMPTS, ENTRY_TOKENS, NEW_TOKENS = 3, 40, 200, 4
KEPT = 4  # entries that the device has room for; the disk has room for twice as many
TIMEOUT = 1800
GROWTH = 64 * 2**20  # of the process, between the middle and the end, by which an allocator may differ


def threads(run: Run) -> Iterator[Figure]:
    """Generate, warm, clear, evict: in memory alone, and over a disk."""
    yield from _measured(run, "in memory", None)
    with TemporaryDirectory() as folder:
        yield from _measured(run, "with a disk", Path(folder))


def _measured(run: Run, name: str, path: Path | None) -> Iterator[Figure]:
    entry = ENTRY_TOKENS * BYTES_PER_TOKEN
    config = PoolConfig(max_bytes=KEPT * entry, path=path, disk_bytes=2 * KEPT * entry, heal=False)
    engine = tiny_engine(run.engine.tokenizer, config)
    prompts = _prompts(engine)
    alone = [engine.generate(p, max_new_tokens=NEW_TOKENS, reuse="off", store=False).token_ids for p in prompts]
    calls = run.count(CALLS)
    watch = _Watch(engine)
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(_work, engine, prompts, alone, seed, calls, watch) for seed in range(THREADS)]
        wrong = sum(future.result(timeout=TIMEOUT) for future in futures)
    seconds = time.perf_counter() - started
    engine.pool.flush()
    watch.look()
    stats = engine.pool.stats()
    engine.pool.close()
    made = f"{THREADS} threads x {calls} calls, {name}"
    yield Figure(f"{made}: answers other than one thread's", f"{wrong} ({seconds:.0f} s)", "0", wrong == 0)
    budgets = {"device": config.max_bytes, "disk": config.disk_bytes}
    over = max(watch.most[tier] - budget for tier, budget in budgets.items())
    told = f"{max(0, over) / entry:.2f} entries over, at worst; {stats.evictions} evictions"
    yield Figure(f"{made}: budgets", told, "<= 1 entry over", over <= entry, [watch.most])
    grown = watch.memory[-1] - watch.memory[len(watch.memory) // 2]
    yield Figure(f"{made}: memory of the process, second half", f"{grown / 2**20:+.0f} MiB", "<= 64", grown <= GROWTH)


def _prompts(engine: SemShareEngine) -> list[list[int]]:
    """Token ids that begin alike in families of four, so that rows are shared, divided and continued."""
    rng = random.Random(0)
    words = range(1000, 5000)
    families = [rng.choices(words, k=ENTRY_TOKENS // 2) for _ in range(PROMPTS // 4)]
    return [family + rng.choices(words, k=rng.randint(10, ENTRY_TOKENS // 2)) for family in families for _ in range(4)]


def _work(
    engine: SemShareEngine, prompts: list[list[int]], alone: list[list[int]], seed: int, calls: int, watch: _Watch
) -> int:
    """One thread's calls; returns how many answers were wrong."""
    rng = random.Random(seed)
    wrong = 0
    for call in range(calls):
        number, namespace = rng.randrange(len(prompts)), str(rng.randrange(NAMESPACES))
        kind = rng.random()
        if kind < 0.6:
            answer = engine.generate(
                prompts[number], max_new_tokens=NEW_TOKENS, reuse="exact", namespace=namespace, temperature=0.0
            )
            wrong += answer.token_ids != alone[number]
        elif kind < 0.8:
            engine.warm([prompts[number]], namespace=namespace, pin=False)
        elif kind < 0.97:
            engine.generate(prompts[number], max_new_tokens=NEW_TOKENS, reuse="fast", namespace=namespace)
        else:
            engine.pool.clear(namespace)
        if call % 10 == 0:
            watch.look()
    return wrong


class _Watch:
    """The most that each tier ever held, and the memory of the process over time."""

    def __init__(self, engine: SemShareEngine) -> None:
        self._engine = engine
        self._process = psutil.Process()
        self._lock = threading.Lock()
        self.most = {"device": 0, "disk": 0}
        self.memory: list[int] = []

    def look(self) -> None:
        stats = self._engine.pool.stats()
        with self._lock:
            self.most["device"] = max(self.most["device"], stats.device_bytes)
            self.most["disk"] = max(self.most["disk"], stats.disk_bytes)
            self.memory.append(self._process.memory_info().rss)
