"""Healing: how long a call waits for it, and whether anything goes wrong under random calls, clears and kills.

The waits are those of the demo model. The random calls run on a tiny random model in processes of their own, over a
folder: some are killed (SIGKILL) in the middle of it, and the next one looks at what is there.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from multiprocessing import get_context
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.corpora.pydoc_text import texts
from benchmarks.sections.figure import Figure, Run
from benchmarks.sections.healing_process import THREADS, Life, live
from semshare_core import Heal, PoolConfig, ReusePolicy, SemShareEngine

PROMPT_TOKENS, ARRIVALS = 3000, 60
BOUND_MS = 100.0
LIFE_SECONDS, KILLS_SHARE = 6.0, 0.4  # of a process that is killed; share of the time
GROWTH = 0.05
PATIENCE = 120.0


def healing(run: Run) -> Iterator[Figure]:
    """One torch thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from _waits(run)
        yield from _random_life(run)
    finally:
        torch.set_num_threads(threads)


# How long a call waits


def _waits(run: Run) -> Iterator[Figure]:
    """Short calls that arrive while a prompt is healed, and the same calls while nothing is."""
    found: dict[bool, list[float]] = {}
    queued: dict[bool, list[float]] = {}
    arrivals = run.count(ARRIVALS)
    for heals in (False, True):
        config = PoolConfig(heal=Heal(share=1.0) if heals else False)
        engine = SemShareEngine(run.engine.model, run.engine.tokenizer, pool=config)
        dice, found[heals], queued[heals] = random.Random(0), [], []
        text = _text(run)
        number = 0
        while len(found[heals]) < arrivals:
            if number == 0 or (heals and not engine.healing.counts().waiting):
                number += 1
                engine.pool.clear()
                engine.warm([f"It is {number} o'clock.\n\n{text}"])
                later = f"It is half past {number}.\n\n{text}\n\nIn short:"
                made = engine.generate(later, max_new_tokens=4, reuse=ReusePolicy(recompute_ratio=0.05))
                assert made.report.outcome == "semantic"
            time.sleep(dice.uniform(0.1, 1.2) if heals else 0.1)
            if heals and not engine.healing.counts().waiting:
                continue  # it was done before the call came
            report = engine.generate("The time is", max_new_tokens=1, reuse="off", store=False).report
            found[heals].append(report.ttft_ms)
            queued[heals].append(report.queue_ms)
        if heals:
            counts = engine.healing.counts()
            run.say(f"waits: {counts}")
        engine.healing.close()
    alone = median(found[False])
    extra = sorted(each - alone for each in found[True])
    told = f"median {median(extra):.0f} ms, p99 {_p99(extra):.0f} ms, longest {extra[-1]:.0f} ms"
    yield Figure(
        f"{arrivals} calls that arrive while {PROMPT_TOKENS} tokens are healed: extra time to the first token",
        f"{told} (alone: median {alone:.0f}, p99 {_p99(found[False]):.0f} ms)",
        f"median <= {BOUND_MS:.0f} ms",
        median(extra) <= BOUND_MS,
        [found[True], found[False]],
    )
    waited = sorted(queued[True])
    told = f"median {median(waited):.0f} ms, p99 {_p99(waited):.0f} ms"
    yield Figure("of that, the wait for the model", f"{told} (without healing: {median(queued[False]):.1f} ms)")


def _text(run: Run) -> str:
    """Documentation of the standard library, of so many tokens."""
    ids = run.engine.tokenizer("\n\n".join(islice(texts(), 40)), verbose=False)["input_ids"]
    return str(run.engine.tokenizer.decode(ids[: run.tokens(PROMPT_TOKENS)]))


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[98]


# Random calls, clears and kills


def _random_life(run: Run) -> Iterator[Figure]:
    context = get_context("forkserver")  # a fresh process every time, without importing all that every time
    context.set_forkserver_preload(["benchmarks.sections.healing_process"])
    seconds = 60 * run.minutes
    started = time.perf_counter()
    lives: list[Life] = []
    kills = 0
    with tempfile.TemporaryDirectory() as place:
        cleared: list[str] = []
        while time.perf_counter() - started < KILLS_SHARE * seconds:
            life = _lived(context, run, place, kills, cleared, killed=LIFE_SECONDS)
            cleared += life.cleared
            lives.append(life)
            kills += 1
        rest = max(LIFE_SECONDS, seconds - (time.perf_counter() - started))
        last = _lived(context, run, place, kills, cleared, lasts=rest)
        lives.append(last)
    calls = sum(sum(life.calls.values()) for life in lives)
    kinds = sum((life.calls for life in lives), Counter())
    run.say(f"{calls} calls ({', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}), {kills} kills")
    run.say(f"the last process: {last.counts}, {last.entries} entries when it began")
    made = f"{THREADS} threads, {run.minutes:g} min, {kills} kills"
    wrong = [each for life in lives for each in life.wrong]
    yield Figure(f"{made}: wrong answers and wrong rows", f"{len(wrong)} of {calls} calls", "0", not wrong, wrong[:20])
    back = [each for life in lives for each in life.back]
    clears = sum(len(life.cleared) for life in lives)
    yield Figure(f"{made}: entries that came back", f"{len(back)} after {clears} clears", "0", not back, back[:20])
    third = max(1, len(last.resident) // 3)
    first, end = median(last.resident[:third]), median(last.resident[-third:])
    told = f"{end / first - 1:+.1%} ({first / 2**20:.1f} to {end / 2**20:.1f} MiB)"
    yield Figure(
        f"{made}: memory of the process, last third against the first",
        told,
        f"within {GROWTH:.0%}",
        abs(end / first - 1) <= GROWTH,
        last.resident,
    )
    healed, wasted = last.counts["rows"], last.counts["wasted_rows"]
    told = (
        f"{(healed + wasted) / max(1, last.served):.2f} ({healed:.0f} healed and {wasted:.0f} computed in vain for "
        f"{last.served} served; the calls computed {last.computed})"
    )
    yield Figure("rows healed per row served", told, items=[last.counts])


def _lived(
    context: Any,
    run: Run,
    place: str,
    number: int,
    cleared: list[str],
    *,
    killed: float | None = None,
    lasts: float | None = None,
) -> Life:
    """A process that works in ``place``: it is killed after so many seconds, or ends by itself."""
    ours, theirs = context.Pipe(duplex=False)
    arguments = (run.engine.tokenizer, place, number, list(cleared), lasts, theirs)
    process = context.Process(target=live, args=arguments)
    process.start()
    theirs.close()
    life = Life()
    begun = None
    try:
        while True:
            patience = PATIENCE if begun is None or killed is None else max(0.0, begun + killed - time.perf_counter())
            if not ours.poll(patience + (lasts or 0.0)):
                if begun is None or killed is None:
                    life.wrong.append(f"a process hangs for {PATIENCE:.0f} s")
                break
            word, value = ours.recv()
            if word == "begun":
                begun = time.perf_counter()
            elif word == "cleared":
                life.cleared.append(value)
            else:
                value.cleared = life.cleared
                life = value
                if word == "ended":
                    break
    except EOFError:
        life.wrong.append("a process crashed")
    finally:
        process.kill()
        process.join(PATIENCE)
    with suppress(EOFError, OSError):
        while ours.poll():  # what it said before it was killed
            word, value = ours.recv()
            if word == "cleared":
                life.cleared.append(value)
    return life
