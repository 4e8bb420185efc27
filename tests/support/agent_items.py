"""Made-up items of the agents benchmark: what the tests of its figures, tables and pages are made of."""

from __future__ import annotations

from typing import Any

from benchmarks.agents.item import BACK_TO_BACK, FactItem, TurnItem


def made_turn(**changes: Any) -> TurnItem:
    """Ten times as fast as the full prefill and near it, unless told otherwise."""
    settings: dict[str, Any] = {
        "part": "turns",
        "chain": "a",
        "edit": "clock",
        "turn": 3,
        "system": "balanced",
        "mode": BACK_TO_BACK,
        "tokens": 100,
        "ttft_ms": 10.0,
        "full_ms": 100.0,
        "cpu_ms": 20.0,
        "full_cpu_ms": 100.0,
        "queue_ms": 0.0,
        "kl": [0.01] * 4,
        "agree": [1, 1, 1, 0],
        "recompute_ratio": 0.1,
        "old_tokens": 90,
        "old_computed": 9,
        "ask": "say",
        "held": None,
        "full_held": None,
        "outcome": "semantic",
        "reason": "",
        "calibration": "demo",
        "expected_kl": 0.01,
        "account": 0.01,
    }
    return TurnItem(**(settings | changes))


def made_fact(**changes: Any) -> FactItem:
    """Answered with the new fact by both, unless told otherwise."""
    settings: dict[str, Any] = {
        "document": "d",
        "question": "q",
        "distance": 0,
        "tokens_between": 0,
        "tokens": 100,
        "margin": 1.0,
        "full_margin": 1.0,
        "outcome": "semantic",
        "recompute_ratio": 0.1,
    }
    return FactItem(**(settings | changes))
