"""Lists in another order: what the forecast says of them, and which rows to recompute at an equal ratio."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np

import benchmarks.ablations  # noqa: F401 -- registers the selections that the variants name
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.figure import Figure, Run, item
from benchmarks.workloads.moved_lines import LINES, QUESTIONS, Order, Wording, moved_lines
from semshare_core import ReusePolicy
from semshare_core.calibrate.prompts import default_pairs

PAIRS, TOKENS, RATIO = 3, 32, 0.2
POLICIES = {
    "balanced": ReusePolicy(level="balanced"),
    "ours": ReusePolicy(recompute_ratio=RATIO),
    "tokens behind seams first": ReusePolicy(recompute_ratio=RATIO, selection="seams"),
    "whole lines by influence": ReusePolicy(recompute_ratio=RATIO, selection="whole_passages"),
    "random": ReusePolicy(recompute_ratio=RATIO, selection="random"),
}


def lists(run: Run) -> Iterator[Figure]:
    """Lines that repeat one wording beside sentences of prose, moved in the same way."""
    prose = [text for pair in default_pairs(7 * 12, seed=1) for text in pair.references if isinstance(text, str)]
    for wording in get_args(Wording):
        for order in get_args(Order):
            for question in QUESTIONS:
                found: dict[str, list[tuple[str, Measured]]] = defaultdict(list)
                pairs = moved_lines(
                    wording, order, question, prose, count=run.count(PAIRS), lines=max(4, run.tokens(LINES))
                )
                for pair in pairs:
                    run.engine.pool.clear()
                    run.engine.warm([pair.reference])
                    base = baseline(run.engine, pair.target, TOKENS)
                    for name, policy in POLICIES.items():
                        found[name].append((pair.id, measure(run.engine, pair.target, policy, base)))
                    run.say(f"{pair.id}: " + ", ".join(f"{name} {all_[-1][1].kl:.3f}" for name, all_ in found.items()))
                for name, several in found.items():
                    told = _told([measured for _, measured in several])
                    yield Figure(
                        f"{wording}, {order}, {question}: {name}", told, items=[item(*each) for each in several]
                    )
    run.engine.pool.clear()


def _told(found: Sequence[Measured]) -> str:
    kl = [measured.kl for measured in found]
    expected = [m.report.expected_kl for m in found if m.report.expected_kl is not None]
    spent = float(np.mean([measured.report.recompute_ratio for measured in found]))
    forecast = f", expected {np.mean(expected):.4f}" if expected else ""
    return f"KL mean {np.mean(kl):.4f}, largest {max(kl):.3f}{forecast}; recomputed {spent:.3f}"
