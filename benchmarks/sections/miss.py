"""What a miss costs: lookup, matching and the governor for nothing, and keeping the prompt for later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.corpora import pydoc_text
from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.unrelated import unrelated
from semshare_core import SemShareEngine

REPEATS, TOKENS = 16, 4000


def miss(run: Run) -> Iterator[Figure]:
    """The engine's calls and plain prefills in pairs, each as often first: a call also pays for what went before it.

    What counts is the median over the pairs, in wall time and in the processor time of all threads: other work on the
    machine slows single calls down by more than the 2 % in question, and by processor time less than by the clock.
    """
    engine = run.engine
    case = unrelated(chapter_texts("web"), pydoc_text.texts(), run.count_tokens, tokens=run.tokens(TOKENS))
    engine.pool.clear()
    engine.warm(list(case.pool_prompts))
    ids = torch.tensor([engine.token_ids(case.prompt)], device=engine.model.device)
    full_prefill(engine.model, ids)  # the first one allocates
    plain, ours = partial(_plain, engine, ids), partial(_ours, engine, case.prompt)
    items: list[dict[str, Any]] = []
    for repeat in range(run.count(REPEATS)):
        entry: dict[str, Any] = {}
        for part in (plain, ours) if repeat % 2 else (ours, plain):
            entry |= part()
        items.append(entry)
        run.say(
            f"{entry['outcome']}: TTFT {entry['ttft_ms'] / 1e3:.2f} s, full prefill {entry['full_ms'] / 1e3:.2f} s; "
            f"processor {entry['cpu_ms'] / 1e3:.2f} and {entry['full_cpu_ms'] / 1e3:.2f} s"
        )
    approximate = sum(entry["outcome"] in ("semantic", "prefix") for entry in items)
    own = median((entry["lookup_ms"] + entry["match_ms"]) / entry["full_ms"] for entry in items)
    name = f"miss at {ids.shape[1]} tokens"
    for what, ours_key, full_key in (("TTFT", "ttft_ms", "full_ms"), ("processor time", "cpu_ms", "full_cpu_ms")):
        ratios = [entry[ours_key] / entry[full_key] - 1 for entry in items]
        low, middle, high = (float(np.quantile(ratios, at)) for at in (0.25, 0.5, 0.75))
        told = f"{middle:+.2%} (median of {len(ratios)} pairs; middle half {low:+.2%} to {high:+.2%})"
        yield Figure(
            f"{name}: {what} over the plain prefill", told, "<= 2 %", middle <= 0.02 and not approximate, items
        )
    yield Figure(f"{name}: lookup and matching alone", f"{own:.2%}; {approximate}/{len(items)} reused anything")
    started = time.perf_counter()
    report = engine.prefill(case.prompt, reuse="off", namespace="to be kept").report
    kept = 1e3 * (time.perf_counter() - started) / report.ttft_ms - 1
    yield Figure(f"{name}: keeping the prompt", f"{kept:.2%} of the full prefill")
    engine.pool.clear()


def _plain(engine: SemShareEngine, ids: Tensor) -> dict[str, Any]:
    """A full prefill's times."""
    started = time.process_time()
    seconds = full_prefill(engine.model, ids)[0]
    return {"full_ms": 1e3 * seconds, "full_cpu_ms": 1e3 * (time.process_time() - started)}


def _ours(engine: SemShareEngine, prompt: str) -> dict[str, Any]:
    """The times and the outcome of a call that keeps nothing."""
    started = time.process_time()
    report = engine.prefill(prompt, reuse="balanced", store=False).report
    told = report.model_dump(include={"outcome", "ttft_ms", "lookup_ms", "match_ms"})
    return {"cpu_ms": 1e3 * (time.process_time() - started), **told}
