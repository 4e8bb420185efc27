"""Eight threads at one engine for half an hour: right answers, memory that does not grow, budgets kept, no thread left.

What the threads do is a list of operations; each gets the engine and its material, and says what was wrong.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel

from benchmarks.live_tensors import live_rows
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.tiny_engine import BYTES_PER_TOKEN, tiny_engine
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.errors import CallTimeoutError

THREADS = 8
NAMESPACES, PROMPTS, ENTRY_TOKENS, NEW_TOKENS = 4, 40, 300, 24
KEPT = 6  # entries that the device has room for; the disk has room for twice as many
LIFETIME = 5.0  # seconds after which a prompt that did not come again is forgotten
SAMPLES, SHORTEST_PAUSE = 180, 0.2  # seconds between two
GROWTH = 0.05  # of the process's memory, between the first and the last third
SHOWN = 12  # numbers of a series that are printed
ENDING_SECONDS = 60
ADAPTERS = ("first", "second", None)  # None: the model as it is


@dataclass(frozen=True)
class Case:
    """A prompt and what the model says to it under each of its adapters, computed with nothing reused.

    Adapters are switched between calls by whichever thread likes to. Rows that others computed make an answer that is
    none of these.
    """

    ids: list[int]
    answers: list[list[int]]
    texts: list[str]

    def wrong(self, tokens: list[int]) -> str | None:
        return None if tokens in self.answers else f"{tokens} is none of {self.answers}"

    def wrong_text(self, text: str, *, whole: bool) -> str | None:
        fits = any(answer == text if whole else answer.startswith(text) for answer in self.texts)
        return None if fits else f"{text!r} {'is' if whole else 'begins'} none of {self.texts}"


@dataclass
class Ground:
    """What operations work with."""

    engine: SemShareEngine
    cases: Sequence[Case]
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def case(self, dice: random.Random) -> Case:
        return dice.choice(self.cases)

    def namespace(self, dice: random.Random) -> str:
        return f"tenant {dice.randrange(NAMESPACES)}"


Operation = Callable[[Ground, random.Random], str | None]


def generate(ground: Ground, dice: random.Random) -> str | None:
    case = ground.case(dice)
    found = ground.engine.generate(
        case.ids, max_new_tokens=NEW_TOKENS, reuse="exact", namespace=ground.namespace(dice), store=dice.random() < 0.8
    )
    return case.wrong(found.token_ids)


def approximate(ground: Ground, dice: random.Random) -> str | None:
    """Nobody says what the answer is, but it must not be felt in the exact ones."""
    case = ground.case(dice)
    ground.engine.generate(case.ids, max_new_tokens=4, reuse="fast", namespace=ground.namespace(dice))
    return None


def stream(ground: Ground, dice: random.Random) -> str | None:
    case = ground.case(dice)
    pieces = ground.engine.stream(case.ids, max_new_tokens=NEW_TOKENS, reuse="exact", namespace=ground.namespace(dice))
    text = "".join(piece.text for piece in pieces)
    return case.wrong_text(text, whole=True)


def left_early(ground: Ground, dice: random.Random) -> str | None:
    case = ground.case(dice)
    pieces = ground.engine.stream(case.ids, max_new_tokens=NEW_TOKENS, reuse="exact", namespace=ground.namespace(dice))
    with closing(pieces):
        text = "".join(next(pieces).text for _ in range(dice.randint(0, 2)))
    return case.wrong_text(text, whole=False)


def cancelled(ground: Ground, dice: random.Random) -> str | None:
    """Out of another thread, while it waits for its turn, computes its prompt or answers."""
    case = ground.case(dice)
    cancel = threading.Event()
    timer = threading.Timer(0.05 * dice.random(), cancel.set)
    timer.start()
    pieces = ground.engine.stream(
        case.ids, max_new_tokens=NEW_TOKENS, reuse="exact", namespace=ground.namespace(dice), cancel=cancel
    )
    text = "".join(piece.text for piece in pieces)
    timer.cancel()
    timer.join()
    return case.wrong_text(text, whole=False)


def timed_out(ground: Ground, dice: random.Random) -> str | None:
    """Or answered in time."""
    case = ground.case(dice)
    try:
        found = ground.engine.generate(
            case.ids,
            max_new_tokens=NEW_TOKENS,
            reuse="exact",
            namespace=ground.namespace(dice),
            timeout=0.001 + 0.1 * dice.random(),
        )
    except CallTimeoutError:
        return None
    return case.wrong(found.token_ids)


def switched(ground: Ground, dice: random.Random) -> str | None:
    """Another adapter computes from now on, or none."""
    with ground.engine._lock:  # within a call nobody may switch
        _switch(ground.engine.model, dice.choice(ADAPTERS))
    return None


def failed(ground: Ground, dice: random.Random) -> str | None:
    """The caller's own code raises in the middle of the answer."""
    case = ground.case(dice)
    try:
        ground.engine.generate(
            case.ids, max_new_tokens=4, namespace=ground.namespace(dice), logits_processor=[_Failing()]
        )
    except _OnPurpose:
        return None
    return "an error was lost"


def prefill(ground: Ground, dice: random.Random) -> str | None:
    case = ground.case(dice)
    logits = ground.engine.prefill(case.ids, reuse="exact", namespace=ground.namespace(dice)).logits
    first = int(logits.argmax())
    return None if first in [answer[0] for answer in case.answers] else f"{first} begins none of {case.answers}"


def warm(ground: Ground, dice: random.Random) -> str | None:
    ground.engine.warm([ground.case(dice).ids, ground.case(dice).ids], namespace=ground.namespace(dice))
    return None


def clear(ground: Ground, dice: random.Random) -> str | None:
    ground.engine.pool.clear(None if dice.random() < 0.1 else ground.namespace(dice))
    return None


OPERATIONS: list[tuple[Operation, int]] = [
    (generate, 8),
    (approximate, 3),
    (stream, 4),
    (left_early, 2),
    (cancelled, 2),
    (timed_out, 2),
    (switched, 1),
    (failed, 1),
    (prefill, 2),
    (warm, 2),
    (clear, 1),
]
"""Each with how often it comes. Whoever adds a kind adds a function and a line here."""


class _OnPurpose(Exception):
    pass


class _Failing(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise _OnPurpose


def soak(run: Run) -> Iterator[Figure]:
    """One torch thread: what runs beside it are calls."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    before = set(threading.enumerate())
    try:
        with TemporaryDirectory() as folder:
            yield from _soaked(run, Path(folder), before)
    finally:
        torch.set_num_threads(threads)


def _soaked(run: Run, folder: Path, before: set[threading.Thread]) -> Iterator[Figure]:
    entry = (ENTRY_TOKENS + NEW_TOKENS) * BYTES_PER_TOKEN
    config = PoolConfig(
        max_bytes=KEPT * entry, path=folder, disk_bytes=2 * KEPT * entry, ttl_seconds=LIFETIME, heal=True
    )
    ground = _ground(tiny_engine(run.engine.tokenizer, config))
    watch = _Watch(ground.engine)
    stop = threading.Event()
    workers = [threading.Thread(target=_work, args=(ground, seed, stop)) for seed in range(THREADS)]
    seconds = 60 * run.minutes
    started = time.perf_counter()
    try:
        for worker in workers:
            worker.start()
        while (spent := time.perf_counter() - started) < seconds:
            stop.wait(min(max(seconds / SAMPLES, SHORTEST_PAUSE), seconds - spent))
            watch.look()
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        watch.end()
    stats = ground.engine.pool.stats()
    ground.engine.pool.close()
    ground.engine.canary.close()
    ground.engine.healing.close()
    left = _left(before)
    calls, kinds = ground.done.total(), ", ".join(f"{name} {count}" for name, count in ground.done.most_common())
    made = f"{THREADS} threads, {run.minutes:g} min"
    run.say(f"{calls} calls ({kinds}); {stats.evictions} evictions")
    run.say("memory of the process, MiB: " + ", ".join(f"{each / 2**20:.1f}" for each in _thinned(watch.resident)))
    wrong = len(ground.wrong)
    yield Figure(f"{made}: wrong answers", f"{wrong} of {calls} calls", "0", wrong == 0, ground.wrong[:20])
    first, last = (median(third) for third in _thirds(watch.resident))
    grown = last / first - 1
    told = f"{grown:+.1%} ({first / 2**20:.1f} to {last / 2**20:.1f} MiB)"
    name = f"{made}: memory of the process, median of the last third against the first"
    yield Figure(name, told, f"within {GROWTH:.0%}", abs(grown) <= GROWTH, watch.resident)
    over = max(0, max(watch.rows) - config.max_bytes)
    told = f"{over} bytes (at most {max(watch.rows) / 2**20:.2f} of {config.max_bytes / 2**20:.2f} MiB alive)"
    yield Figure(f"{made}: keys and values alive between calls, over the budget", told, "0", over == 0, watch.rows)
    names = ", ".join(thread.name for thread in left)
    yield Figure(f"{made}: threads left after closing", f"{len(left)} {names}", "0", not left)


def _ground(engine: SemShareEngine) -> Ground:
    """Token ids that begin alike in families of four, so that rows are shared, divided and continued."""
    dice = random.Random(0)
    words = range(32, min(5000, len(engine.tokenizer) - 8))  # ordinary ones
    families = [dice.choices(words, k=ENTRY_TOKENS // 2) for _ in range(PROMPTS // 4)]
    prompts = [family + dice.choices(words, k=dice.randint(10, ENTRY_TOKENS // 2)) for family in families * 4]
    for name in ADAPTERS:
        if name is not None:  # random weights
            config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            engine.model.add_adapter(config, name)
    cases = [Case(ids, [], []) for ids in prompts]
    for adapter in ADAPTERS:
        _switch(engine.model, adapter)
        for case in cases:
            alone = engine.generate(case.ids, max_new_tokens=NEW_TOKENS, reuse="off", store=False)
            case.answers.append(alone.token_ids)
            case.texts.append(alone.text)
    return Ground(engine, cases)


def _switch(model: PreTrainedModel, adapter: str | None) -> None:
    if adapter is None:
        model.disable_adapters()
    else:
        model.enable_adapters()
        model.set_adapter(adapter)


def _work(ground: Ground, seed: int, stop: threading.Event) -> None:
    dice = random.Random(seed)
    operations, weights = zip(*OPERATIONS, strict=True)
    while not stop.is_set():
        (operation,) = dice.choices(operations, weights)
        try:
            wrong = operation(ground, dice)
        except Exception as error:  # whatever it is: it is a wrong answer
            wrong = f"{type(error).__name__}: {error}"
        ground.done[operation.__name__] += 1
        if wrong is not None:
            ground.wrong.append(f"{operation.__name__}: {wrong}")


class _Watch:
    """The memory of the process over time, and keys and values that are alive while no call has its turn."""

    def __init__(self, engine: SemShareEngine) -> None:
        self._engine = engine
        self._process = psutil.Process()
        self.resident: list[int] = []
        self.rows: list[int] = []
        gc.collect()
        gc.freeze()  # what is there already is not looked through time and again

    def look(self) -> None:
        self.resident.append(self._process.memory_info().rss)
        storage = self._engine.pool._tiers
        with self._engine._lock, storage.making_room, storage._storing:  # what is being moved or written is in flight
            time.sleep(0.01)  # the call before may not have returned yet
            self.rows.append(live_rows())

    def end(self) -> None:
        gc.unfreeze()


def _left(before: set[threading.Thread]) -> list[threading.Thread]:
    end = time.monotonic() + ENDING_SECONDS
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, end - time.monotonic()))
    return sorted(set(threading.enumerate()) - before, key=lambda thread: thread.name)


def _thirds(series: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    """The first third and the last."""
    third = max(1, len(series) // 3)
    return series[:third], series[-third:]


def _thinned(series: Sequence[int]) -> Sequence[int]:
    step = max(1, len(series) // SHOWN)
    return series[::step]
