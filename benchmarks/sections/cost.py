"""The cost model: seconds per token of the full prefill, and per recomputed, rearranged, new and looked-up token.

Prompts of four lengths, their passages shuffled and 5 % of the words changed, at several recompute ratios; full
prefills and selective ones take turns. See docs/performance.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import TypeVar

import numpy as np
import torch

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.prefill.cache import MergedCache, kv_bytes
from semshare_core.prefill.rearrange import lay_rows

LENGTHS = (1000, 2000, 4000, 7600)  # the last leaves room for new tokens in a context of 8,192
RATIOS = (0.05, 0.075, 0.15, 0.3)
NEW_TOKENS = (16, 272)
REPEATS = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """A selective prefill; times in seconds.

    Attributes:
        computed: rows computed, mean over the layers.
        positions: sum of the positions of the tokens computed, watched ones twice.
    """

    tokens: int
    ratio: float
    seconds: float
    wall: float
    computed: float
    positions: int
    lookup_ms: float
    match_ms: float


@dataclass(frozen=True)
class AtLength:
    """What was measured of one prompt: seconds each; ``full`` and ``new`` hold one for each repetition."""

    tokens: int
    full: list[float]
    calls: list[Call]
    laying: float
    copying: float
    new: float

    @property
    def slope(self) -> tuple[float, float]:
        """Seconds per recomputed token and for none of them, fitted over the ratios."""
        per_token, rest = np.polyfit([c.computed for c in self.calls], [c.seconds for c in self.calls], 1)
        return float(per_token), float(rest)


def cost(run: Run) -> Iterator[Figure]:
    """All lengths, then what they have in common."""
    with _one_thread():
        found = [_at_length(run, run.tokens(length)) for length in LENGTHS]
    linear, attention = _full_model(found)
    for at in found:
        per_token, rest = at.slope
        full = median(at.full)
        name = f"{at.tokens} tokens"
        yield Figure(f"{name}: full prefill", f"{full:.2f} s = {1e3 * full / at.tokens:.2f} ms per token")
        yield Figure(
            f"{name}: per recomputed token",
            f"{1e3 * per_token:.2f} ms = {per_token * at.tokens / full:.2f} of the full prefill's; "
            f"{rest:.3f} s where none is",
        )
        yield Figure(f"{name}: per new token", f"{1e3 * at.new:.2f} ms")
        yield Figure(f"{name}: per rearranged token", f"{1e6 * at.laying / at.tokens:.1f} us")
        searching = median(c.lookup_ms + c.match_ms for c in at.calls)
        yield Figure(f"{name}: looking up and matching, per token", f"{1e3 * searching / at.tokens:.1f} us")
        for ratio in RATIOS:
            calls = [c for c in at.calls if c.ratio == ratio]
            seconds = median(c.seconds for c in calls)
            ideal = calls[0].computed / at.tokens * full + at.copying
            placed = calls[0].computed * linear + 2 * attention * calls[0].positions + at.copying
            yield Figure(
                f"{name}: ratio {ratio}",
                f"{full / seconds:.2f}x; {seconds:.3f} s = {seconds / ideal:.2f} of the ideal, "
                f"{seconds / placed:.2f} of the ideal for rows where these are",
                items=[asdict(c) for c in calls],
            )
    yield Figure(
        "full prefill of n tokens",
        f"{1e3 * linear:.3f} ms n + {1e6 * attention:.4f} us n^2; a token at position p: {2e6 * attention:.4f} us p",
        items=[{"tokens": at.tokens, "seconds": at.full, "laying": at.laying, "copying": at.copying} for at in found],
    )
    fixed, per_reused, per_row, per_position = _selective_model(found)
    yield Figure(
        "selective prefill of n tokens, k of them computed at positions p",
        f"{fixed:.3f} s + {1e6 * per_reused:.1f} us n + {1e3 * per_row:.3f} ms k + {1e6 * per_position:.4f} us sum(p)",
    )


def _at_length(run: Run, tokens: int) -> AtLength:
    engine = run.engine
    pair = shuffled_edits(chapter_texts("web"), run.count_tokens, seeds=[10], tokens=tokens)[0]
    target = engine.token_ids(pair.target_prompt)
    engine.pool.clear()
    engine.warm([pair.reference_prompt])
    ids = torch.tensor([target], device=engine.model.device)
    full, calls = [], []
    for _ in range(run.count(REPEATS)):
        full.append(_timed(lambda: full_prefill(engine.model, ids))[1])
        for ratio in RATIOS:
            calls.append(_call(engine, target, ReusePolicy(recompute_ratio=ratio)))
    laying, copying = _laid(engine, target)
    found = AtLength(len(target), full, calls, laying, copying, _per_new(engine, target))
    spent = ", ".join(f"{c.seconds:.2f}" for c in calls)
    run.say(f"{len(target)} tokens: full prefill {median(full):.2f} s; {spent} s")
    engine.pool.clear()
    return found


def _call(engine: SemShareEngine, target: Sequence[int], policy: ReusePolicy) -> Call:
    report, seconds = _timed(lambda: engine.prefill(list(target), reuse=policy, store=False).report)
    n = len(target)
    computed = report.recompute_ratio * n
    watched = round(computed) - report.recomputed_tokens  # the last tokens, run once more
    positions = _positions(report) + sum(range(n - watched, n))
    lookup, match = report.lookup_ms, report.match_ms
    ratio = policy.recompute_ratio or 0.0
    return Call(n, ratio, seconds, report.ttft_ms / 1e3, computed, positions, lookup, match)


def _positions(report: ReuseReport) -> int:
    return int(np.flatnonzero(report.token_recomputed).sum())


def _per_new(engine: SemShareEngine, target: list[int]) -> float:
    """Seconds per token that nothing serves: what more of them, drawn at random, add in the middle of the prompt."""
    drawn = np.random.default_rng(0).integers(1000, len(engine.tokenizer), max(NEW_TOKENS)).tolist()
    policy = ReusePolicy(recompute_ratio=0.0, matching="runs")  # what is not identical is new, and only that computed
    middle = len(target) // 2
    some, more = (_call(engine, target[:middle] + drawn[:new] + target[middle:], policy) for new in NEW_TOKENS)
    return (more.seconds - some.seconds) / (more.computed - some.computed)


def _laid(engine: SemShareEngine, target: list[int]) -> tuple[float, float]:
    """Seconds to lay the rows that serve ``target`` where they belong, and to copy as many bytes."""
    prefill = engine._prefill
    policy = ReusePolicy(recompute_ratio=0.0)
    found = engine._request(target, policy, None).look_up()
    n = len(target)

    def lay() -> MergedCache:
        cache = MergedCache(prefill.n_layers, n)
        lay_rows(cache, prefill.spec, found.plan, found.entries, found.plan.served)
        for layer in cache.layers:
            assert layer.buffers  # a layer is filled when it is looked at
        return cache

    lay()  # the first one fetches memory
    cache, laying = _timed(lay)
    rows = torch.empty(kv_bytes(cache.rows(n)), dtype=torch.uint8)
    copied = torch.zeros_like(rows)
    return laying, _timed(lambda: copied.copy_(rows))[1]


def _full_model(found: Sequence[AtLength]) -> tuple[float, float]:
    """The two terms of t = linear n + attention n^2: a token at position p costs linear + 2 attention p."""
    n = np.array([at.tokens for at in found], float)
    per_token = np.array([median(at.full) for at in found]) / n
    attention, linear = np.polyfit(n, per_token, 1)
    return float(linear), float(attention)


def _selective_model(found: Sequence[AtLength]) -> tuple[float, ...]:
    """t = fixed + per_reused n + per_row k + per_position sum(p), by least squares of the relative error."""
    calls = [c for at in found for c in at.calls]
    terms = np.array([(1.0, c.tokens, c.computed, c.positions) for c in calls])
    seconds = np.array([c.seconds for c in calls])
    solved = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(calls)), rcond=None)[0]
    return tuple(float(value) for value in solved)


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """What ``work`` gives, and the processor time that it took."""
    started = time.process_time()
    done = work()
    return done, time.process_time() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
