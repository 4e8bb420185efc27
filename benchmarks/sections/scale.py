"""A look-up in a pool of 100,000 prompts beside one in a pool of 1,000, and what the indexes take in memory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.corpora import pydoc_text
from benchmarks.corpora.bible import chapter_texts
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.many_prompts import ManyPrompts, Tokens
from semshare_core import PoolConfig, ReusePolicy
from semshare_core.budget.goal import Goal
from semshare_core.lookup.find import find
from semshare_core.lookup.search import Query
from semshare_core.match import FactTokens, TokenTable
from semshare_core.pool import Entry, ReferencePool

FEW, MANY, LOOKUPS, TOKENS = 1_000, 100_000, 300, 500
BEST = 8
NAMESPACE = "scale"


def scale(run: Run) -> Iterator[Figure]:
    """Real tokens and embeddings; the keys and values of each entry are one row, so that all of them fit."""
    prompts = ManyPrompts(_ids(run, [*chapter_texts("web"), *chapter_texts("kjv")]), _ids(run, pydoc_text.texts()))
    weight = run.engine.model.get_input_embeddings().weight
    table, facts = TokenTable(weight), FactTokens(run.engine.tokenizer, len(weight))
    pool = ReferencePool(PoolConfig(candidates=BEST))
    few, many = FEW // run.shrink, MANY // run.shrink
    asked = list(prompts.asked(run.count(LOOKUPS), few))
    resident = psutil.Process().memory_info().rss
    seconds = _fill(pool, prompts, table, range(few))
    at_few = _look_up(pool, asked, table, facts)
    run.say(f"{few} entries: {_quantiles([each.lookup_ms for each in at_few])}")
    seconds += _fill(pool, prompts, table, range(few, many))
    grown = psutil.Process().memory_info().rss - resident
    at_many = _look_up(pool, asked, table, facts)
    for kind in sorted({kind for kind, _ in asked}):
        chosen = [each for each in at_many if each.kind == kind]
        run.say(f"{many} entries, {kind}: {_quantiles([each.lookup_ms for each in chosen])}, "
                f"{mean(each.served for each in chosen):.0%} of the tokens served")  # fmt: skip
    before, after = ([each.lookup_ms for each in found] for found in (at_few, at_many))
    slowest = float(np.quantile(after, 0.99))
    yield Figure(f"look-up among {many} entries", _quantiles(after), "p99 <= 10 ms", slowest <= 10, after)
    growth = float(np.median(after) / np.median(before))
    measured = f"{growth:.2f}x (median {np.median(before):.2f} ms, p99 {np.quantile(before, 0.99):.2f} ms at first)"
    yield Figure(f"growth of look-up time from {few} to {many} entries", measured, "< 4x", growth < 4, before)
    whole = [each.lookup_ms + each.match_ms for each in at_many]
    yield Figure(f"look-up and plan among {many} entries", _quantiles(whole), items=whole)
    parts = _bytes(pool)
    held = sum(parts.values()) / (many * TOKENS)
    told = ", ".join(f"{name} {size / (many * TOKENS):.2f}" for name, size in parts.items())
    yield Figure("index memory a token", f"{held:.1f} B ({told})", "<= 120 B", held <= 120, [parts])
    yield Figure("growth of the process a token, all in all", f"{grown / (many * TOKENS):.1f} B")
    found = _recall(pool, [table.embed(tokens) for _, tokens in asked])
    yield Figure(f"nearest {BEST} found that comparing all would find", f"{found:.3f}", ">= 0.95", found >= 0.95)
    milliseconds = 1e3 * np.array(seconds)
    yield Figure("adding an entry", f"mean {milliseconds.mean():.2f} ms, longest {milliseconds.max():.0f} ms")


@dataclass(frozen=True)
class _LookUp:
    kind: str
    lookup_ms: float
    match_ms: float
    served: float


def _ids(run: Run, texts: Sequence[str]) -> list[Tokens]:
    return [np.asarray(run.engine.tokenizer(text, verbose=False)["input_ids"], np.int64) for text in texts]


def _fill(pool: ReferencePool, prompts: ManyPrompts, table: TokenTable, numbers: range) -> list[float]:
    """Seconds that each addition took."""
    seconds = []
    for number in numbers:
        tokens = prompts.pooled(number)
        rows = [(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))]
        entry = Entry.of_rows(NAMESPACE, tokens, rows, np.zeros(len(tokens), np.uint8), table.embed(tokens))
        started = time.perf_counter()
        pool.add(entry)
        seconds.append(time.perf_counter() - started)
    return seconds


def _look_up(
    pool: ReferencePool, asked: Sequence[tuple[str, Tokens]], table: TokenTable, facts: FactTokens
) -> list[_LookUp]:
    found = []
    for kind, tokens in asked:
        each = find(pool, Query(NAMESPACE, tokens), Goal(ReusePolicy()), table, table.embed, facts)
        found.append(_LookUp(kind, each.lookup_ms, each.match_ms, float(each.plan.served.mean())))
    return found


def _quantiles(milliseconds: Sequence[float]) -> str:
    p50, p99 = np.quantile(milliseconds, (0.5, 0.99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {max(milliseconds):.1f} ms"


def _bytes(pool: ReferencePool) -> dict[str, int]:
    """What finding takes, without keys and values."""
    entries, indexes = list(pool._entries.chosen(None)), pool._entries.namespaces[NAMESPACE].of("")
    assert indexes is not None
    return {
        "tokens": sum(entry.tokens.nbytes for entry in entries),
        "approximate": sum(entry.approximate.nbytes for entry in entries),
        "prefixes": indexes.prefix.n_bytes,
        "runs": indexes.runs.n_bytes + indexes.approximate_runs.n_bytes,
        "embeddings": indexes.semantic.n_bytes,
    }


def _recall(pool: ReferencePool, queries: Sequence[NDArray[np.float32]]) -> float:
    """Share of the nearest entries, by comparing all, that the index names."""
    entries = list(pool._entries.chosen(None))
    rows = np.concatenate([entry.embedding for entry in entries])
    shares = []
    for query in queries:
        nearest = {entries[index].id for index in np.argsort(-(rows @ query))[:BEST]}
        named = {entry.id for entry, _ in pool.similar(NAMESPACE, query)}
        shares.append(len(nearest & named) / len(nearest))
    return mean(shares)
