"""Rewrites: the same chapters in two Bible translations."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean, median

from benchmarks.bench.figures import PARAPHRASE_AGREEMENT, PARAPHRASE_KL
from benchmarks.corpora.bible import rows
from benchmarks.measure import baseline, measure
from benchmarks.sections.figure import Figure, Run, item, means, ratio_figure
from benchmarks.workloads.paraphrase import paraphrases
from semshare_core import ReusePolicy

PAIRS, RATIO = 20, 0.25


def paraphrase(run: Run) -> Iterator[Figure]:
    """Every pair counts the same, whatever its length."""
    engine = run.engine
    chosen = rows()[: run.count(PAIRS)]
    found = []
    for pair in paraphrases(chosen):
        engine.pool.clear()
        engine.warm([pair.reference_prompt])
        base = baseline(engine, pair.target_prompt)
        found.append(measure(engine, pair.target_prompt, ReusePolicy(recompute_ratio=RATIO), base))
        run.say(f"{len(found)}/{len(chosen)} {pair.id}: {means(found[-1:])}")
    items = [item(row.id, measured) for row, measured in zip(chosen, found, strict=True)]
    kl, agreement = [m.kl for m in found], [m.agreement for m in found]
    name = f"{len(found)} paraphrases"
    yield Figure(f"{name}: mean KL", _spread(kl), f"<= {PARAPHRASE_KL}", mean(kl) <= PARAPHRASE_KL, items)
    yield Figure(
        f"{name}: top-1 agreement",
        _spread(agreement),
        f">= {PARAPHRASE_AGREEMENT}",
        mean(agreement) >= PARAPHRASE_AGREEMENT,
    )
    yield ratio_figure(
        name, [m.report.recompute_ratio for m in found], RATIO, [measured.report.outcome for measured in found]
    )
    yield Figure(f"{name}: TTFT", f"{mean(m.speedup for m in found):.2f}x")
    words = [float(len(text.split())) for row in chosen for text in (row.reference, row.target)]
    tokens = [float(m.report.prompt_tokens) for m in found]
    outside = [1 - (m.report.moved_tokens + m.report.prefix_tokens) / m.report.prompt_tokens for m in found]
    yield Figure(f"{name}: words in a chapter", _spread(words, 0), "700-1300", 700 <= min(words) <= max(words) <= 1300)
    yield Figure(f"{name}: tokens in a prompt", _spread(tokens, 0))
    yield Figure(f"{name}: share of tokens outside identical runs", _spread(outside, 2))


def _spread(values: list[float], digits: int = 3) -> str:
    return (
        f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f}, "
        f"median {median(values):.{digits}f})"
    )
