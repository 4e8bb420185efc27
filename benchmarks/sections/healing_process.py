"""A process that makes random calls and clears over a folder, while what it stored is healed; it may be killed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.workloads.tiny_engine import BYTES_PER_TOKEN, tiny_engine
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.pool import Entry

THREADS, TURN_TOKENS, NEW_TOKENS = 4, 400, 6
KEPT = 24  # prompts that the device has room for
TOLERANCE = 1e-3  # of rows, between several passes and one
SAMPLED = 0.5  # seconds between two looks at the memory
PATIENCE = 120.0


Say = Callable[[str, Any], None]


@dataclass
class Life:
    """What one process did, and what it found wrong."""

    calls: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    served: int = 0
    computed: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    resident: list[int] = field(default_factory=list)
    entries: int = 0


def live(
    tokenizer: PreTrainedTokenizerBase,
    place: str,
    number: int,
    cleared: list[str],
    lasts: float | None,
    pipe: Connection,
) -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    config = PoolConfig(
        max_bytes=KEPT * TURN_TOKENS * BYTES_PER_TOKEN,
        path=Path(place),
        disk_bytes=4 * KEPT * TURN_TOKENS * BYTES_PER_TOKEN,
        heal=True,
    )
    engine = tiny_engine(tokenizer, config)
    life, saying = Life(), threading.Lock()
    life.entries = engine.pool.stats().entries
    life.back = [each for each in cleared if engine.pool.stats(each).entries]
    life.wrong = [f"entry {entry.id} is not lossless" for entry in _stored(engine) if not _is_full(engine, entry)]

    def say(word: str, value: Any) -> None:
        with saying:
            pipe.send((word, value))

    say("begun", None)
    stop = threading.Event()
    workers = [
        threading.Thread(target=_work, args=(engine, life, random.Random(name), name, stop, say))
        for name in (f"{number}.{each}" for each in range(THREADS))
    ]
    for worker in workers:
        worker.start()
    started = time.perf_counter()
    process = psutil.Process()
    while lasts is None or time.perf_counter() - started < lasts:
        stop.wait(SAMPLED)
        life.resident.append(process.memory_info().rss)
        life.counts = vars(engine.healing.counts())
        if lasts is None:
            say("so far", _snapshot(life))
    stop.set()
    for worker in workers:
        worker.join()
    engine.healing.wait(PATIENCE)
    life.counts = vars(engine.healing.counts())
    life.wrong += [f"entry {entry.id} is not lossless" for entry in _stored(engine) if not _is_full(engine, entry)]
    life.wrong += engine.healing.errors
    say("ended", _snapshot(life))


def _snapshot(life: Life) -> Life:
    """Without what the parent knows already."""
    return Life(
        Counter(life.calls),
        list(life.wrong),
        list(life.back),
        [],
        life.served,
        life.computed,
        dict(life.counts),
        list(life.resident),
        life.entries,
    )


def _stored(engine: SemShareEngine) -> list[Entry]:
    with engine.pool._lock:
        return list(engine.pool._entries.chosen(None))


def _is_full(engine: SemShareEngine, entry: Entry) -> bool:
    """Whether the rows that are marked as lossless are a full prefill's."""
    n = len(entry.lossless)
    if not n:
        return True
    cache = engine.prefill(entry.tokens[:n].tolist(), reuse="off", store=False).cache
    for index, layer in enumerate(cache.layers):
        parts = [segment.rows.layer(index) for segment in entry.segments]
        for which, full in ((0, layer.keys), (1, layer.values)):
            rows = torch.cat([part[which] for part in parts], dim=2)[:, :, :n]
            if float((rows - full[:, :, :n]).abs().max()) > TOLERANCE:
                return False
    return True


def _work(engine: SemShareEngine, life: Life, dice: random.Random, name: str, stop: threading.Event, say: Say) -> None:
    """Conversations whose prompts change at their head, each in a namespace of its own; then it is cleared."""
    words = range(32, min(5000, len(engine.tokenizer) - 8))
    conversation = 0
    while not stop.is_set():
        conversation += 1
        namespace = f"{name} {conversation}"
        history = dice.choices(words, k=TURN_TOKENS // 2)
        for _ in range(dice.randint(2, 6)):
            turn = dice.choices(words, k=dice.randint(4, 9)) + history
            with _errors_are_wrong(life):
                made = engine.generate(
                    turn, max_new_tokens=NEW_TOKENS, namespace=namespace, reuse=ReusePolicy(recompute_ratio=0.2)
                )
                life.calls[made.report.outcome] += 1
                life.served += made.report.reused_tokens
                life.computed += made.report.recomputed_tokens
                history += made.token_ids + dice.choices(words, k=dice.randint(2, 20))
            stop.wait(dice.choice((0.0, 0.01, 0.05, 0.2)))
            with _errors_are_wrong(life):
                asked = turn + dice.choices(words, k=3)
                exact = engine.generate(
                    asked, max_new_tokens=NEW_TOKENS, namespace=namespace, reuse="exact", store=False
                )
                alone = engine.generate(asked, max_new_tokens=NEW_TOKENS, reuse="off", store=False)
                life.calls["exact"] += 1
                life.calls["behind healed rows"] += exact.report.prefix_tokens > len(turn) // 2
                if exact.token_ids != alone.token_ids:
                    life.wrong.append(f"{exact.token_ids} is not {alone.token_ids}")
        if dice.random() < 0.7:
            with _errors_are_wrong(life):
                engine.pool.clear(namespace)
                say("cleared", namespace)
                for _ in range(3):
                    stop.wait(0.01)
                    if engine.pool.stats(namespace).entries:
                        life.back.append(namespace)


@contextmanager
def _errors_are_wrong(life: Life) -> Iterator[None]:
    """Whatever is raised is a wrong answer."""
    try:
        yield
    except Exception as error:
        life.wrong.append(f"{type(error).__name__}: {error}")
