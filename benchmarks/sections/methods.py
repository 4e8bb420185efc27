"""The published methods and their ablations beside ours, on the same pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import mean

from benchmarks.ablations import zero_rows
from benchmarks.corpora.bible import chapter_texts, rows
from benchmarks.measure import Measured
from benchmarks.sections.figure import Figure, Run, item, means
from benchmarks.sections.shuffled import TOKENS, beside_full
from benchmarks.workloads.paraphrase import paraphrases
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy

PARAPHRASES, SHUFFLED = 8, range(10, 11)
PAPER = ("paper", "paper, zero", "paper, random")
KEPT = tuple(f"{name}, no retention" for name in PAPER)
"""Retention drops rows for decoding, which alone moves the KL; without it, what is compared is the reuse."""
POLICIES = {
    **{f"ours, ratio {ratio}": ReusePolicy(recompute_ratio=ratio) for ratio in (0.12, 0.15, 0.25)},
    PAPER[0]: ReusePolicy.paper(),
    PAPER[1]: ReusePolicy.paper(),
    PAPER[2]: ReusePolicy.paper(matching="random"),
    KEPT[0]: ReusePolicy.paper(compress=None),
    KEPT[1]: ReusePolicy.paper(compress=None),
    KEPT[2]: ReusePolicy.paper(matching="random", compress=None),
    "paper, no retention, ratio 0.25": ReusePolicy.paper(0.25, compress=None),
    "CacheBlend, ratio 0.15": ReusePolicy.cacheblend(),
    "CacheBlend, ratio 0.25": ReusePolicy.cacheblend(0.25),
}
WITHIN = {PAPER[1]: zero_rows, KEPT[1]: zero_rows}


def methods(run: Run) -> Iterator[Figure]:
    """Ours at the paper's own ratio (0.12), at CacheBlend's (0.15) and at 0.25."""
    rewrites = [
        (pair.id, pair.reference_prompt, pair.target_prompt) for pair in paraphrases(rows()[: run.count(PARAPHRASES)])
    ]
    seeds = SHUFFLED[: run.count(len(SHUFFLED))]
    orders = [
        (pair.id, pair.reference_prompt, pair.target_prompt)
        for pair in shuffled_edits(chapter_texts("web"), run.count_tokens, seeds=seeds, tokens=run.tokens(TOKENS))
    ]
    for kind, pairs in (("paraphrase", rewrites), ("shuffled", orders)):
        found: dict[str, list[Measured]] = defaultdict(list)
        for number, (name, reference, target) in enumerate(pairs):
            for policy, measured in beside_full(run, reference, target, POLICIES, within=WITHIN).items():
                found[policy].append(measured)
                run.say(f"{number + 1}/{len(pairs)} {name}, {policy}: {means([measured])}")
        for policy, several in found.items():
            items = [item(pair[0], measured) for pair, measured in zip(pairs, several, strict=True)]
            yield Figure(f"{len(pairs)} {kind}: {policy}", _told(several), items=items)
        for names in (PAPER, KEPT):
            yield _ranking(kind, names, [found[name] for name in names])


def _told(found: Sequence[Measured]) -> str:
    """Also names what is no reuse: a policy that fell back to the full prefill has no divergence to be proud of."""
    other = [m.report.outcome for m in found if m.report.outcome != "semantic"]
    return means(found) + (f" ({len(other)}/{len(found)} {'/'.join(sorted(set(other)))})" if other else "")


def _ranking(kind: str, names: Sequence[str], found: Sequence[Sequence[Measured]]) -> Figure:
    """Fuzzy against zero, zero against random, as found."""
    fuzzy, zero, random = found
    told = "; ".join((_versus("fuzzy", fuzzy, "zero", zero), _versus("zero", zero, "random", random)))
    met = mean(m.kl for m in fuzzy) < mean(m.kl for m in zero) < mean(m.kl for m in random)
    return Figure(f"{kind}, {names[0]}: the ablations by KL", told, "fuzzy beats zero beats random", met)


def _versus(name: str, first: Sequence[Measured], other: str, second: Sequence[Measured]) -> str:
    one, two = mean(m.kl for m in first), mean(m.kl for m in second)
    verb = "beats" if one < two else "does not beat"
    wins = sum(a.kl < b.kl for a, b in zip(first, second, strict=True))
    return f"{name} {verb} {other} ({one:.3f} / {two:.3f}, better on {wins}/{len(first)})"
