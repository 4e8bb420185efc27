"""Twenty turns, each a paraphrase of the last and served from what the turns before left in the pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from benchmarks.corpora.bible import chapter_pairs
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.figure import Figure, Run, item
from benchmarks.workloads.rewrites import rewrites
from semshare_core import ReusePolicy

CHAPTERS, TURNS = 4, 20
FACTOR = 1.25
EARLY, LATE = slice(1, 6), slice(15, 20)  # turns 2 to 6, and the last five
POLICIES = {"default": ReusePolicy(level="balanced"), "fixed ratio 0.15": ReusePolicy(recompute_ratio=0.15)}


def drift(run: Run) -> Iterator[Figure]:
    """Every turn is stored as its policy made it; each policy has a namespace of its own."""
    engine = run.engine
    turns: dict[str, list[list[Measured]]] = {name: [[] for _ in range(TURNS)] for name in POLICIES}
    for chain in rewrites(chapter_pairs()[: run.count(CHAPTERS)], turns=TURNS):
        engine.pool.clear()
        for name in POLICIES:
            engine.warm([chain.prompts[0]], namespace=name)
        for number, prompt in enumerate(chain.prompts[1:]):
            base = baseline(engine, prompt)
            for name, policy in POLICIES.items():
                measured = measure(engine, prompt, policy, base, namespace=name)
                engine.prefill(prompt, reuse=policy, namespace=name)
                turns[name][number].append(measured)
                report = measured.report
                run.say(
                    f"{chain.id}, turn {number + 1}, {name}: KL {measured.kl:.4f}, account {report.account:.4f}, "
                    f"{report.outcome}, ratio {report.recompute_ratio:.2f}"
                )
    for name, found in turns.items():
        yield from _figures(name, found)


def _figures(name: str, found: Sequence[Sequence[Measured]]) -> Iterator[Figure]:
    curve = [mean(m.kl for m in several) for several in found]
    accounts = [mean(m.report.account or 0.0 for m in several) for several in found]
    early, late = mean(curve[EARLY]), mean(curve[LATE])
    items: list[Any] = [
        {"turn": number + 1} | item(f"chain {chain}", measured)
        for number, several in enumerate(found)
        for chain, measured in enumerate(several)
    ]
    promised = name == "default"
    yield Figure(
        f"drift, {name}: KL of the last five turns, of turns 2 to 6",
        f"{late:.4f}, {early:.4f}: {late / max(early, 1e-9):.2f}x",
        f"<= {FACTOR}x" if promised else "",
        late <= FACTOR * early if promised else None,
        items,
    )
    last, second = curve[-1], curve[1]
    yield Figure(
        f"drift, {name}: KL of turn {TURNS}, of turn 2",
        f"{last:.4f}, {second:.4f}: {last / max(second, 1e-9):.2f}x",
        f"<= {FACTOR}x" if promised else "",
        last <= FACTOR * second if promised else None,
    )
    yield Figure(f"drift, {name}: KL by turn", " ".join(f"{kl:.3f}" for kl in curve), items=curve)
    yield Figure(f"drift, {name}: account by turn", " ".join(f"{account:.3f}" for account in accounts), items=accounts)
    reused = [mean(m.report.outcome in ("semantic", "prefix") for m in several) for several in found]
    ratios = [mean(m.report.recompute_ratio for m in several) for several in found]
    told = f"{mean(reused):.2f} of the calls reused, mean ratio {mean(ratios):.2f}"
    yield Figure(f"drift, {name}: reuse", told, items=[{"reused": reused, "ratio": ratios}])
