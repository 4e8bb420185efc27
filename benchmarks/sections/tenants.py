"""Two namespaces with 500 similar prompts each: not one token of a plan crosses, whatever happens to the pool."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.corpora.bible import chapter_texts
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.tiny_engine import BYTES_PER_TOKEN, tiny_engine
from semshare_core import Generation, PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.pool.entry import entry_id

Owned = dict[str, set[str]]  # ids of entries by namespace

PROMPTS, TOKENS, NAMES = 500, 150, ("ours", "theirs")
THREADS = 8
POLICY = ReusePolicy(recompute_ratio=0.3, min_similarity=0)


def tenants(run: Run) -> Iterator[Figure]:
    """With room for all, under eviction, after a restart, and from many threads at once."""
    count = run.count(PROMPTS)
    owned: Owned = {namespace: set() for namespace in NAMES}
    prompts = _prompts(run, count)
    room = 2 * count * 2 * TOKENS * BYTES_PER_TOKEN
    with TemporaryDirectory() as folder:
        config = PoolConfig(max_bytes=room, disk_bytes=2 * room, path=Path(folder), heal=False)
        engine = tiny_engine(run.engine.tokenizer, config)
        yield _asked(engine, "room for all", prompts, owned, threads=1)
        engine.pool.close()
        engine = tiny_engine(run.engine.tokenizer, config.model_copy(update={"max_bytes": room // 8}))
        yield _asked(engine, "after a restart, one eighth in memory", prompts, owned, threads=1)
        engine.pool.close()
    engine = tiny_engine(run.engine.tokenizer, PoolConfig(max_bytes=room // 20, heal=False))
    yield _asked(engine, "under eviction", prompts, owned, threads=1)
    engine = tiny_engine(run.engine.tokenizer, PoolConfig(max_bytes=room // 4, heal=False))
    yield _asked(engine, f"{THREADS} threads", prompts, owned, threads=THREADS)


def _prompts(run: Run, count: int) -> list[list[int]]:
    """Passages that overlap, so that every prompt resembles many others and shares runs with some."""
    text = "\n".join(list(chapter_texts("web"))[:40])
    ids = run.engine.tokenizer(text, verbose=False)["input_ids"]
    rng = random.Random(0)
    starts = [rng.randrange(len(ids) - TOKENS) for _ in range(count)]
    return [list(ids[start : start + TOKENS // 2]) + list(ids[: TOKENS // 2]) for start in starts]


def _asked(engine: SemShareEngine, name: str, prompts: Sequence[list[int]], owned: Owned, threads: int) -> Figure:
    """Both tenants ask everything; whose entries served whom? ``owned`` gathers what each stored."""

    def ask(item: tuple[int, str]) -> tuple[str, list[int], Generation]:
        number, namespace = item
        reuse = "exact" if number % 2 == 0 else POLICY  # what is approximate serves few, so half are not
        answer = engine.generate(prompts[number], max_new_tokens=2, reuse=reuse, namespace=namespace)
        return namespace, prompts[number], answer

    weights = engine.weights.identity()  # beside a call that runs, its hooks would count as a change
    served_by: Owned = {namespace: set() for namespace in NAMES}
    served = 0
    with ThreadPoolExecutor(threads) as pool:
        for namespace, prompt, answer in pool.map(ask, product(range(len(prompts)), NAMES)):
            report = answer.report
            owned[namespace].add(entry_id(namespace, np.array(prompt + answer.token_ids[:-1]), weights))
            served_by[namespace].update(report.reference_ids)
            served += report.prefix_tokens + report.moved_tokens + report.fuzzy_tokens
    foreign = sum(len(served_by[namespace] - owned[namespace]) for namespace in NAMES)
    used = sum(map(len, served_by.values()))
    told = f"{foreign} of {used} references were not the tenant's own; {served:,} tokens served"
    return Figure(f"2 x {len(prompts)} similar prompts, {name}", told, "0", foreign == 0 and served > 0)
