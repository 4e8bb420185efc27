"""Approximate reuse: shuffled passages with edits, paraphrases, facts, and the published methods beside ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import mean
from typing import Any

from benchmarks.corpora.bible import chapter_texts, rows
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.figure import Figure, Say, token_counter
from benchmarks.workloads.codes import answered_code, code_lookups
from benchmarks.workloads.paraphrase import paraphrases
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy, SemShareEngine

RATIOS = (0.08, 0.1, 0.13)


def _means(found: list[Measured]) -> str:
    return (
        f"{mean(m.speedup for m in found):.2f}x, KL {mean(m.kl for m in found):.3f}, agreement "
        f"{mean(m.agreement for m in found):.2f} at ratio {mean(m.report.recompute_ratio for m in found):.3f}"
    )


def _items(found: list[Measured]) -> list[Any]:
    return [
        {"speedup": m.speedup, "kl": m.kl, "agreement": m.agreement, "report": m.report.model_dump(mode="json")}
        for m in found
    ]


def shuffled(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """About 4,600 tokens, 5 % of the words changed, passages in another order."""
    for form in ("chat", "text"):
        found: dict[str, list[Measured]] = defaultdict(list)
        for pair in shuffled_edits(chapter_texts("web"), token_counter(engine), seeds=range(count)):
            reference, target = (
                [{"role": "user", "content": prompt}] if form == "chat" else prompt
                for prompt in (pair.reference_prompt, pair.target_prompt)
            )
            engine.pool.clear()
            engine.warm([reference])
            base = baseline(engine, target)
            policies = {f"{ratio:.2f}": ReusePolicy(recompute_ratio=ratio) for ratio in RATIOS}
            for name, policy in (policies | {"balanced": ReusePolicy(level="balanced")}).items():
                tries = sorted((measure(engine, target, policy, base) for _ in range(3)), key=lambda m: m.speedup)
                found[name].append(tries[1])
                say(f"{form} {name}: {_means(tries[1:2])}")
        passed = {
            name: mean(m.speedup for m in f) >= 6.25 and mean(m.kl for m in f) <= 0.03 for name, f in found.items()
        }
        for name, measured in found.items():
            goal = ">= 6.25x at KL <= 0.03 (at one ratio)" if form == "chat" else ""
            met = passed[name] if form == "chat" else None
            yield Figure(f"shuffled edits as {form}, {name}", _means(measured), goal, met, _items(measured))


def paraphrase(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """Chapters in two Bible translations."""
    found = []
    for pair in paraphrases(rows())[:count]:
        engine.pool.clear()
        engine.warm([pair.reference_prompt])
        base = baseline(engine, pair.target_prompt)
        found.append(measure(engine, pair.target_prompt, ReusePolicy(recompute_ratio=0.25), base))
        say(f"{pair.id}: {_means(found[-1:])}")
    kl, agreement = mean(m.kl for m in found), mean(m.agreement for m in found)
    met = kl <= 0.11 and agreement >= 0.84
    yield Figure(f"{len(found)} paraphrases", _means(found), "KL <= 0.11, agreement >= 0.84", met, _items(found))


def codes(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """Eight codes per prompt, others in the reference."""
    full, ours, stale, items = 0, 0, 0, []
    for case in code_lookups(chapter_texts("web"), token_counter(engine), count=count):
        engine.pool.clear()
        engine.warm([case.prompt_reference])
        told = answered_code(engine.generate(case.prompt_target, max_new_tokens=8, reuse="off", store=False).text)
        policy = ReusePolicy(recompute_ratio=0.15)
        out = engine.generate(case.prompt_target, max_new_tokens=8, reuse=policy, store=False)
        said = answered_code(out.text)
        full += told == case.gold
        ours += said == case.gold
        stale += said == case.old != told
        items.append({"id": case.id, "gold": case.gold, "old": case.old, "full": told, "reused": said})
        say(f"{len(items)}/{count}: full {full}, reused {ours}, stale {stale}")
    share = ours / max(full, 1)
    yield Figure(
        "codes answered at ratio 0.15, of the full prefill's",
        f"{ours}/{full} = {share:.2f}",
        ">= 0.9",
        share >= 0.9,
        items,
    )
    yield Figure("stale codes that the full prefill does not answer", str(stale), "0", stale == 0)


def methods(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """Ours, SemShareKV as published with its ablations, and CacheBlend, on the same paraphrases at the same ratio."""
    policies = {
        "ours": ReusePolicy(recompute_ratio=0.25),
        "paper": ReusePolicy.paper(0.25),
        "paper, matched rows zeroed": ReusePolicy.paper(0.25, zero_fuzzy=True),
        "paper, random mapping": ReusePolicy.paper(0.25, matching="random"),
        "paper without retention": ReusePolicy.paper(0.25, retention=None),
        "CacheBlend": ReusePolicy.cacheblend(0.25),
    }
    found: dict[str, list[Measured]] = defaultdict(list)
    for pair in paraphrases(rows())[:count]:
        engine.pool.clear()
        engine.warm([pair.reference_prompt])
        base = baseline(engine, pair.target_prompt)
        for name, policy in policies.items():
            found[name].append(measure(engine, pair.target_prompt, policy, base))
            say(f"{pair.id}, {name}: {_means(found[name][-1:])}")
    for name, measured in found.items():
        yield Figure(f"{count} paraphrases, {name}", _means(measured), items=_items(measured))
    fuzzy, zero, random = (mean(m.kl for m in found[name]) for name in list(policies)[1:4])
    told = f"KL {fuzzy:.3f} / {zero:.3f} / {random:.3f}"
    yield Figure("fuzzy beats zero beats random", told, "rising", fuzzy < zero < random)
