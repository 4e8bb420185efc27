"""Made-up items of the benchmark suite: what the tests of its metrics, figures and pages are made of."""

from __future__ import annotations

import random
from typing import Any

from benchmarks.bench.item import Item


def made_item(system: str = "ours balanced", case: str = "a", workload: str = "paraphrase", **changes: Any) -> Item:
    """Twice as fast as the full prefill, and in agreement with it, unless told otherwise."""
    settings: dict[str, Any] = {
        "workload": workload,
        "case": case,
        "setting": "",
        "system": system,
        "tokens": 100,
        "ttft_ms": [50.0],
        "full_ms": [100.0],
        "kl": [0.01] * 4,
        "agree": [1, 1, 1, 1],
        "text": "a b",
        "full_text": "a b",
        "rouge_l": 1.0,
        "answered": None,
        "full_answered": None,
        "stale": None,
        "full_stale": None,
        "full_lead": 1.0,
        "kv_bytes": 1000,
        "kv_bytes_full": 1000,
        "peak_bytes": None,
        "recompute_ratio": 0.25,
        "outcome": "semantic",
        "reason": "",
    }
    return Item(**(settings | changes))


def made_run(cases: int = 5) -> list[Item]:
    """Items of every kind that a page has a place for; faster ones diverge more."""
    rng = random.Random(0)
    items: list[Item] = []

    def add(system: str, workload: str, ratio: float, badness: float, **changes: Any) -> None:
        for number in range(cases):
            kl = badness * rng.uniform(0.5, 2)
            items.append(
                made_item(
                    system,
                    f"{workload}-{changes.get('setting', '')}-{number}",
                    workload,
                    ttft_ms=[1000 * (0.04 + ratio) * rng.uniform(0.95, 1.05)],
                    full_ms=[1000.0],
                    kl=[kl] * 32,
                    recompute_ratio=ratio,
                    answered=rng.random() > 4 * kl,
                    full_answered=number != 1,
                    stale=False,
                    full_stale=False,
                    **changes,
                )
            )

    for workload in ("paraphrase", "reordered"):
        add("full prefill", workload, 0.96, 0.0, outcome="full")
        add("prefix cache", workload, 0.95, 0.0, outcome="prefix")
        for method, factor in (("ours", 0.008), ("paper", 0.04), ("cacheblend", 0.02)):
            for ratio in (0.1, 0.2, 0.3, 0.5):
                add(f"{method} {ratio}", workload, ratio, factor / ratio)
        for level, ratio in (("high", 0.45), ("balanced", 0.22), ("fast", 0.14)):
            add(f"ours {level}", workload, ratio, 0.007 / ratio)
        add("ours 0.25", workload, 0.25, 0.035)
        add("paper", workload, 0.12, 0.4)
        add("cacheblend", workload, 0.17, 0.12)
        add("kvpress snapkv 0.42", workload, 0.97, 0.05, kv_bytes=580)
        add("llama-cpp prompt-cache", workload, 0.3, 0.0)
    for tokens, ratio in ((500, 0.5), (1000, 0.3), (2000, 0.2), (3000, 0.15), (5000, 0.12), (8000, 0.08)):
        add("ours balanced", "length sweep", ratio, 0.02, setting=str(tokens))
        add("prefix cache", "length sweep", 0.95, 0.0, setting=str(tokens))
    for tenth in range(1, 10):
        for edit in ("removed", "replaced"):
            ratio = min(0.96, 0.1 * tenth + (0.2 if edit == "replaced" else 0))
            add("ours balanced", "similarity sweep", ratio, 0.02, setting=f"{tenth / 10} {edit}")
    for decay, share in ((0.98, 700), (0.96, 550), (0.9, 300)):
        add(f"ours 0.25, retention {decay}", "retention sweep", 0.25, 0.1, kv_bytes=share, rouge_l=share / 1000)
    add("ours 0.25", "retention sweep", 0.25, 0.03)
    return items
