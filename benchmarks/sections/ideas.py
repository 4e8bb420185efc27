"""Ours without one idea at a time, or with one more: what the KL becomes when the same share is recomputed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

import benchmarks.ablations  # noqa: F401 -- registers the selections that the variants name
from benchmarks.corpora.bible import rows
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.figure import Figure, Run, item
from benchmarks.sections.masked_fuzzy import masked_fuzzy
from benchmarks.sections.mid_layer import mid_layer
from benchmarks.sections.two_candidates import two_candidates
from benchmarks.workloads.paraphrase import paraphrases
from semshare_core import ReusePolicy
from semshare_core.calibrate.prompts import default_pairs
from semshare_core.match import context
from semshare_core.match.facts import FactTokens
from semshare_core.match.matchers import ordered
from semshare_core.prompt.encode import Prompt
from semshare_core.select import combined
from semshare_core.select.combined import CombinedSelection

RATIOS = (0.1, 0.25)
PAIRS, PARAPHRASES, TOKENS = 18, 4, 32
AS_IT_IS = "as it is"


@dataclass(frozen=True)
class Variant:
    """Settings that differ from ours, and where no setting does it, what stands in the place of our code meanwhile."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    within: Callable[[], AbstractContextManager[object]] = nullcontext


def _instead(owner: object, name: str, value: object) -> Callable[[], AbstractContextManager[object]]:
    return lambda: patch.object(owner, name, value)


VARIANTS = (
    Variant(AS_IT_IS),
    Variant("rows of unrelated text serve, too", within=_instead(ordered, "KINDRED_SHARE", 0.0)),
    Variant(
        "facts that differ and strays have to be chosen", within=_instead(CombinedSelection, "computes_stale", False)
    ),
    Variant("a few words of another place served like any passage", within=_instead(context, "_SHORT_TOKENS", 0)),
    Variant("capitals of common words are names", within=_instead(FactTokens, "_begins_sentence", lambda *_: False)),
    Variant("no halos", {"halo": 0, "seam_halo": 0}),
    Variant("without what the question reads", within=_instead(CombinedSelection, "needs_influence", False)),
    Variant("one reference per prompt", {"max_references": 1}),
    Variant("fuzzy tokens computed, never served", {"matching": "runs"}),
    Variant("fuzzy tokens matched by LSH", {"matching": "lsh"}),
    Variant("fuzzy tokens that are not computed are masked", within=masked_fuzzy),
    Variant("fuzzy tokens served by the mean of two candidates", within=two_candidates),
    Variant("computed from a stored state at a third of the depth", within=mid_layer),
    Variant("whatever the context of a row", within=_instead(combined, "_STEEPNESS", 0)),
    Variant("32 tokens of the question watched", within=_instead(CombinedSelection, "watched_tokens", 32)),
    Variant("sets that shrink with depth (the paper's decay)", {"schedule": "decay"}),
    Variant("ranked by key deviation (CacheBlend)", {"selection": "deviation"}),
    Variant("changed tokens, then the order of the text", {"selection": "non_exact"}),
    Variant("seams, then the order of the text", {"selection": "seams"}),
    Variant("ranked at random", {"selection": "random"}),
)


def ideas(run: Run) -> Iterator[Figure]:
    """Each variant's KL over all prompts, at each ratio."""
    found: dict[tuple[str, float], list[tuple[str, Measured]]] = defaultdict(list)
    for number, (name, references, target) in enumerate(_prompts(run)):
        run.engine.pool.clear()
        run.engine.warm(references)
        base = baseline(run.engine, target, TOKENS)
        for variant in VARIANTS:
            for ratio in RATIOS:
                with variant.within():
                    measured = measure(run.engine, target, ReusePolicy(recompute_ratio=ratio, **variant.settings), base)
                found[variant.name, ratio].append((name, measured))
        run.say(f"{number + 1} {name}")
    run.engine.pool.clear()
    for ratio in RATIOS:
        ours = [measured for _, measured in found[AS_IT_IS, ratio]]
        for variant in VARIANTS:
            several = found[variant.name, ratio]
            told = _told([measured for _, measured in several], ours)
            yield Figure(f"ratio {ratio}: {variant.name}", told, items=[item(*each) for each in several])


def _prompts(run: Run) -> list[tuple[str, list[Prompt], Prompt]]:
    pairs: list[tuple[str, list[Prompt], Prompt]] = [
        (pair.id, list(pair.references), pair.target) for pair in default_pairs(run.count(PAIRS), seed=1)
    ]
    rewrites = paraphrases(rows()[: run.count(PARAPHRASES)])
    return pairs + [(pair.id, [pair.reference_prompt], pair.target_prompt) for pair in rewrites]


def _told(found: Sequence[Measured], ours: Sequence[Measured]) -> str:
    kl = np.array([measured.kl for measured in found])
    worse, better = (
        sum(sign * (other.kl - own.kl) > 0 for other, own in zip(found, ours, strict=True)) for sign in (1, -1)
    )
    spent = float(np.mean([measured.report.recompute_ratio for measured in found]))
    return (
        f"KL mean {kl.mean():.4f}, median {median(kl):.4f}, largest {kl.max():.3f}; recomputed {spent:.3f}; "
        f"worse on {worse}, better on {better} of {len(found)}"
    )
