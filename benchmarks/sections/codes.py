"""Facts that must not leak: eight codes in each prompt, other codes at the same places of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any

import torch

from benchmarks.bench.figures import KEPT_SHARE
from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill, greedy
from benchmarks.sections.figure import Figure, Run, ratio_figure
from benchmarks.workloads.codes import answered_code, code_lookups
from semshare_core import ReusePolicy

PROMPTS, RATIO = 100, 0.15
ANSWER_TOKENS = 8


def codes(run: Run) -> Iterator[Figure]:
    """The full prefill is plain ``model.generate``: its answer, right or wrong, is what ours is held against."""
    engine, wanted = run.engine, run.count(PROMPTS)
    items: list[dict[str, Any]] = []
    for case in code_lookups(chapter_texts("web"), run.count_tokens, count=wanted):
        engine.pool.clear()
        engine.warm([case.prompt_reference])
        ids = torch.tensor([engine.token_ids(case.prompt_target)], device=engine.model.device)
        seconds = full_prefill(engine.model, ids)[0]
        plain = greedy(engine, case.prompt_target, ANSWER_TOKENS)
        told = answered_code(engine.tokenizer.decode(plain, skip_special_tokens=True))
        policy = ReusePolicy(recompute_ratio=RATIO)
        out = engine.generate(case.prompt_target, max_new_tokens=ANSWER_TOKENS, reuse=policy, store=False)
        said = answered_code(out.text)
        items.append(
            {
                "id": case.id,
                "gold": case.gold,
                "old": case.old,
                "full": told,
                "reused": said,
                "stale": said == case.old and told != case.old,
                "outcome": out.report.outcome,
                "recompute_ratio": out.report.recompute_ratio,
                "prompt_tokens": out.report.prompt_tokens,
                "full_ms": 1e3 * seconds,
                "ttft_ms": out.report.ttft_ms,
            }
        )
        full, ours, stale = _tally(items)
        run.say(f"{len(items)}/{wanted}: full prefill {full} right, reused {ours}, stale {stale}")
    full, ours, stale = _tally(items)
    name = f"{len(items)} code look-ups"
    yield Figure(
        f"{name}: right, of the full prefill's",
        f"{ours}/{full} = {ours / full:.2f}" if full else f"{ours}/0",
        f">= {KEPT_SHARE}",
        full > 0 and ours >= KEPT_SHARE * full,
        items,
    )
    both = sum(entry["full"] == entry["reused"] == entry["gold"] for entry in items)
    yield Figure(f"{name}: right in both", f"{both}/{full}")
    yield Figure(f"{name}: the reference's code, not answered by the full prefill", str(stale), "0", stale == 0)
    yield ratio_figure(
        name, [entry["recompute_ratio"] for entry in items], RATIO, [entry["outcome"] for entry in items]
    )
    yield Figure(f"{name}: TTFT", f"{mean(entry['full_ms'] / entry['ttft_ms'] for entry in items):.2f}x")


def _tally(items: list[dict[str, Any]]) -> tuple[int, int, int]:
    """Right with the full prefill, right with reuse, stale."""
    return (
        sum(entry["full"] == entry["gold"] for entry in items),
        sum(entry["reused"] == entry["gold"] for entry in items),
        sum(entry["stale"] for entry in items),
    )
