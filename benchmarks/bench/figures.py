"""What must hold (the targets of the benchmarks' issue), computed from the items; what was not measured is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean

import numpy as np

from benchmarks.bench.item import Item
from benchmarks.bench.metrics import (
    AGREEMENT,
    CLEAR_LEAD,
    KEPT,
    KEPT_CLEAR,
    KL,
    KV_SHARE,
    ROUGE_L,
    SPEED,
    Metric,
    above,
    approximate,
    by_system,
    common_cases,
    grouped,
)
from benchmarks.bench.plan import BALANCED, PEERS_PART
from benchmarks.peers import PEERS
from benchmarks.sections.figure import Figure
from benchmarks.systems.published import RATIOS
from benchmarks.systems.retention import PAPER as PAPER_RETENTION
from benchmarks.workloads.length_sweep import LENGTHS
from benchmarks.workloads.similarity_sweep import EDITS, SHARES
from semshare_core.budget.levels import BOUNDS

SPEEDS = {"5000": 6.25, "8000": 8.0}
NEVER_BELOW = 0.97
PARAPHRASE_KL, PARAPHRASE_AGREEMENT = 0.08, 0.88
KEPT_SHARE, CODES_SPEED, REORDERED_SPEED = 0.95, 3.0, 4.0
ALLOWED_MORE = 0.02
KV_SAVED = 0.42
SAVES_TIME = 1.1
SAME_RATIO = 0.01
"""Ratios that differ by less are the same one: a prompt has whole tokens."""
REUSED = ("semantic", "prefix")


def must_hold(items: Sequence[Item]) -> list[Figure]:
    """Every target that the items say something about."""
    parts = (_lengths, _never_slower, _paraphrase, _frontier, _changed_facts, _reordered, _promises, _retention, _peers)
    return [figure for part in parts for figure in part(items)]


def _lengths(items: Sequence[Item]) -> Iterator[Figure]:
    found = by_system(items, "length sweep").get(BALANCED, [])
    for setting, several in grouped(found, lambda item: item.setting).items():
        target = SPEEDS.get(setting)
        name = f"{setting} tokens, shuffled, 5 % changed, balanced"
        told = f"{SPEED.told(several)}, KL {KL.told(several, interval=False)}; {_prompts(several)}"
        if target:
            yield Figure(name, told, f">= {target}×", SPEED.value(several) >= target)


def _never_slower(items: Sequence[Item]) -> Iterator[Figure]:
    """Held only where every setting of the sweeps was measured; broken by one."""
    planned = {f"length sweep, {tokens}" for tokens in LENGTHS}
    planned |= {f"similarity sweep, {share} {edit}" for share in SHARES for edit in EDITS}
    swept = [item for name in ("length sweep", "similarity sweep") for item in by_system(items, name).get(BALANCED, [])]
    speeds = {
        name: SPEED.value(several)
        for name, several in grouped(swept, lambda item: f"{item.workload}, {item.setting}").items()
    }
    if speeds:
        slowest = min(speeds, key=lambda name: speeds[name])
        measured = f"{len(planned & speeds.keys())} of {len(planned)} settings, {_prompts(swept)}"
        told = f"{speeds[slowest]:.2f}× ({slowest}); {measured}"
        met = None if speeds[slowest] >= NEVER_BELOW and planned - speeds.keys() else speeds[slowest] >= NEVER_BELOW
        yield Figure("slowest length or similarity, balanced", told, f">= {NEVER_BELOW}×", met)


def _paraphrase(items: Sequence[Item]) -> Iterator[Figure]:
    found = by_system(items, "paraphrase").get("ours 0.25", [])
    if found:
        for metric, target, met in (
            (KL, f"<= {PARAPHRASE_KL}", KL.value(found) <= PARAPHRASE_KL),
            (AGREEMENT, f">= {PARAPHRASE_AGREEMENT}", AGREEMENT.value(found) >= PARAPHRASE_AGREEMENT),
        ):
            told = f"{metric.told(found)}; {_prompts(found)}"
            yield Figure(f"paraphrases at ratio 0.25: {metric.name}", told, target, met)


def _frontier(items: Sequence[Item]) -> Iterator[Figure]:
    """Ours against the published methods at what they really recompute, on the same cases.

    Ours is read off the line between its nearest measured ratios. Some tokens are always computed, so that its line
    begins above the smallest ratio asked for: where another method computes less than that, ours stands at its first
    point, is told with what it computes, and counts for nothing. CacheBlend computes every token that no identical run
    serves, however small the ratio: beyond the last point of our line ours stands at that one, which computes less,
    and counts.
    """
    for workload in ("paraphrase", "reordered", "many sources"):
        groups = by_system(items, workload)
        swept = [f"{method} {ratio}" for method in ("ours", "paper", "cacheblend") for ratio in (*RATIOS, 0.7)]
        groups = common_cases({name: groups[name] for name in swept if name in groups})
        curve = _curve([group for name, group in groups.items() if name.startswith("ours") and group])
        for method in ("paper", "cacheblend") if curve else ():
            told, wins = [], []
            for ratio in RATIOS:
                group = groups.get(f"{method} {ratio}", [])
                if group:
                    spent, theirs = _spent(group), KL.value(group)
                    ours = float(np.interp(spent, [at for at, _ in curve], [kl for _, kl in curve]))
                    less = spent < curve[0][0] - SAME_RATIO
                    if not less:
                        wins.append(ours <= theirs)
                    at = f" at ours {curve[0][0]:.2f}" if less else f" at {spent:.2f}" * (spent > ratio + 0.03)
                    told.append(f"{ratio}: {ours:.3f} / {theirs:.3f}{at}")
            if told:
                count = _prompts(next(group for name, group in groups.items() if name.startswith(method)))
                uncounted = len(told) - len(wins)
                rest = f"; {uncounted} not counted, where ours computes more" * bool(uncounted)
                name = f"{workload}: KL of ours / {method} by ratio"
                yield Figure(name, f"{'; '.join(told)}{rest}; {count}", "ours lower", all(wins) if wins else None)


def _curve(groups: Sequence[Sequence[Item]]) -> list[tuple[float, float]]:
    return sorted((_spent(group), KL.value(group)) for group in groups)


def _spent(group: Sequence[Item]) -> float:
    return mean(item.recompute_ratio or 0.0 for item in group)


def _changed_facts(items: Sequence[Item]) -> Iterator[Figure]:
    for workload in ("codes", "editions"):
        groups = by_system(items, workload)
        for name in ("ours high", BALANCED):
            group = groups.get(name, [])
            judged = [item for item in group if item.stale is not None]
            stale = sum(bool(item.stale) for item in judged)
            full = sum(bool(item.full_stale) for item in judged)
            if judged:
                told = f"{stale}, the full prefill {full}, of {_prompts(judged)}"
                yield Figure(f"{workload}, {name}: stale answers", told, "no more than the full prefill", stale <= full)
            yield from _kept_figure(workload, name, group)
    found = by_system(items, "codes").get(BALANCED, [])
    if found:
        met = SPEED.value(found) >= CODES_SPEED
        told = f"{SPEED.told(found)}; {_prompts(found)}"
        yield Figure("codes, balanced: speed", told, f">= {CODES_SPEED:g}×", met)


def _kept_figure(workload: str, name: str, group: Sequence[Item]) -> Iterator[Figure]:
    values = KEPT.values(group)
    if values:
        share = mean(values)
        told = f"{KEPT.told(group)}, {sum(values):.0f} of {_count(len(values))}; at {SPEED.told(group, interval=False)}"
        yield Figure(f"{workload}, {name}: kept answers", told, f">= {KEPT_SHARE}", share >= KEPT_SHARE)


def _reordered(items: Sequence[Item]) -> Iterator[Figure]:
    """The fastest of ours that keeps its answers: of all that the full prefill gives, and of those no hair decides."""
    name, target = f"reordered: best speed with {KEPT_SHARE} of the answers kept", f">= {REORDERED_SPEED:g}×"
    ours = {system: group for system, group in by_system(items, "answered").items() if system.startswith("ours")}
    fastest, told = _fastest(ours, KEPT)
    if told:
        yield Figure(name, told, target, fastest >= REORDERED_SPEED)
    _, told = _fastest(ours, KEPT_CLEAR)
    if told:
        yield Figure(f"reordered: the same of the answers with a lead of {CLEAR_LEAD} nats", told)


def _fastest(groups: Mapping[str, Sequence[Item]], metric: Metric) -> tuple[float, str]:
    """The best speed among those that keep enough by ``metric``, and in words; no words where there is no answer."""
    judged = {system: values for system, group in groups.items() if (values := metric.values(group))}
    held = [
        (SPEED.value(groups[system]), system, f"{sum(values):.0f} of {_count(len(values))}")
        for system, values in judged.items()
        if mean(values) >= KEPT_SHARE
    ]
    if not held:
        most = max((len(values) for values in judged.values()), default=0)
        return 0.0, f"none keeps as many, of {_count(most)}" if judged else ""
    fastest, system, share = max(held)
    return fastest, f"{fastest:.2f}× ({system}, kept {share})"


def _promises(items: Sequence[Item]) -> Iterator[Figure]:
    """Over all workloads but the misses, where nothing is at stake; told apart are those that can break a promise."""
    for level, bound in BOUNDS.items():
        found = [item for item in items if item.system == f"ours {level}" and item.kl and item.workload != "misses"]
        if found:
            share, allowed = above(level).value(found), bound.share + ALLOWED_MORE
            workloads = len({item.workload for item in found})
            told = f"{above(level).told(found)} of {_prompts(found)} in {workloads} workloads"
            reused = approximate(found)
            if reused:
                told += f"; of the {len(reused)} that reuse approximately {above(level).told(reused)}"
            else:
                told += "; none of them reuses approximately"
            yield Figure(f"level {level}: share above KL {bound.kl}", told, f"<= {allowed:.2f}", share <= allowed)


def _retention(items: Sequence[Item]) -> Iterator[Figure]:
    groups = by_system(items, "retention sweep")
    if PAPER_RETENTION in groups and "ours 0.25" in groups:
        both = common_cases({name: groups[name] for name in (PAPER_RETENTION, "ours 0.25")})
        thin, all_rows = both[PAPER_RETENTION], both["ours 0.25"]
        if thin:
            saved = 1 - KV_SHARE.value(thin)
            told = f"{saved:.0%}; ROUGE-L {ROUGE_L.told(thin, False)}, with all rows {ROUGE_L.told(all_rows, False)}"
            told += f"; {_prompts(thin)}"
            yield Figure("KV bytes saved at the paper's retention", told, f">= {KV_SAVED:.0%}", saved >= KV_SAVED)


def is_peer(system: str) -> bool:
    """Whether the name is that of a peer under one of its settings."""
    return system.split(" ")[0] in PEERS


def _peers(items: Sequence[Item]) -> Iterator[Figure]:
    """Balanced against every peer on the peers' own cases. A peer that saves no time has nothing to be compared by.

    Open where there is none that does, or where ours, too, computes the whole prompt: that says nothing of its reuse.
    """
    known = sum(len(PEERS[name].settings) for name in PEERS_PART.names)
    for workload in PEERS_PART.workloads:
        groups = by_system(items, workload)
        asked = {name: group for name, group in groups.items() if is_peer(name)}
        if not asked or BALANCED not in groups:
            continue
        both = common_cases({**asked, BALANCED: groups[BALANCED]})
        ours = both[BALANCED]
        if not ours:
            continue
        speed, kl = SPEED.value(ours), KL.value(ours)
        speeds = {name: SPEED.value(both[name]) for name in asked}
        quick = {name: both[name] for name in asked if speeds[name] >= SAVES_TIME}
        faster = [f"{name} ({speeds[name]:.2f}×)" for name in quick if speeds[name] > speed]
        closer = [f"{name} (KL {KL.told(group, False)})" for name, group in quick.items() if _closer(group, kl)]
        reuses = any(item.outcome in REUSED for item in ours)
        told = [
            f"{speed:.2f}×, KL {kl:.3f}" + ", computed in full" * (not reuses),
            f"faster: {', '.join(faster) or 'none'}",
            f"closer: {', '.join(closer) or 'none'}",
            f"{len(asked)} of {known} peer settings answered, {len(quick)} of them saved time",
            _prompts(ours),
        ]
        met = not faster and not closer if quick and reuses else None
        yield Figure(
            f"{workload}: balanced beside the peers that save time", "; ".join(told), "ours first on both", met
        )


def _closer(group: Sequence[Item], kl: float) -> bool:
    found = KL.estimate(group)
    return found is not None and found.value < kl


def _prompts(items: Iterable[Item]) -> str:
    """On how many a figure stands."""
    return _count(len({(item.workload, item.case) for item in items}))


def _count(prompts: int) -> str:
    return f"{prompts} prompt{'s' * (prompts != 1)}"
