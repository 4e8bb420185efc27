"""A pool of measured deviations: passages that were read in two contexts, for a third.

KVCOMM (arXiv 2510.12872) keeps how the rows of a passage deviated in contexts that it was read in, and interpolates for
a new one. Of two readings of the same passage every interpolation lies between their rows. The prompts are HotpotQA's:
ten paragraphs in three orders under three questions.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.after_laying import after_laying
from benchmarks.corpora.hotpotqa import Asked, questions
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.blended import blend_in
from benchmarks.sections.figure import Figure, Run, item
from benchmarks.workloads.ask import ask
from semshare_core import ReusePolicy
from semshare_core.lookup.find import Lookup
from semshare_core.match.context import context_mismatch
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import ModelSpec
from semshare_core.pool.entry import View
from semshare_core.prefill.cache import MergedCache

QUESTIONS, RATIOS, TOKENS, LENGTHS = 8, (0.1, 0.25), 32, (1000, 1500)
ONE, TWO, BOTH = "first", "second", "both"


def two_contexts(run: Run) -> Iterator[Figure]:
    """The KL with the rows of one reading, of whichever matching takes, and with means of two."""
    engine = run.engine
    found: dict[tuple[float, str], list[tuple[str, Measured]]] = defaultdict(list)
    for asked, prompts in _prompts(run):
        first, second, target = prompts
        engine.pool.clear()
        engine.warm([first], namespace=ONE)
        engine.warm([second], namespace=TWO)
        engine.warm([first, second], namespace=BOTH)
        base = baseline(engine, target, TOKENS)
        for ratio in RATIOS:
            policy = ReusePolicy(recompute_ratio=ratio)
            other = engine._request(target, policy, TWO).look_up()
            ways: dict[str, tuple[str, AbstractContextManager[object]]] = {
                "the first reading alone": (ONE, nullcontext()),
                "the second alone": (TWO, nullcontext()),
                "both in the pool, matching takes what serves most": (BOTH, nullcontext()),
                "the mean of both": (ONE, _mixed(other, weighted=False)),
                "the mean, weighted by how much of its context each shares": (ONE, _mixed(other, weighted=True)),
            }
            for way, (namespace, within) in ways.items():
                with within:
                    found[ratio, way].append((asked.id, measure(engine, target, policy, base, namespace)))
        run.say(asked.id)
    engine.pool.clear()
    for (ratio, way), several in found.items():
        kls = [measured.kl for _, measured in several]
        spent = mean(measured.report.recompute_ratio for _, measured in several)
        told = f"KL mean {mean(kls):.4f}, median {np.median(kls):.4f}, largest {max(kls):.3f}; recomputed {spent:.3f}"
        yield Figure(f"ratio {ratio}: {way}", told, items=[item(*each) for each in several])


def _prompts(run: Run) -> Iterator[tuple[Asked, tuple[str, str, str]]]:
    """Questions with two earlier prompts and the target."""
    everything, taken = questions(), 0
    for number, asked in enumerate(everything):
        if taken == run.count(QUESTIONS):
            return
        target = ask(asked.text, asked.question)
        if LENGTHS[0] <= run.count_tokens(target) <= LENGTHS[1]:
            rng = random.Random(f"two-contexts-{number}")
            orders = [rng.sample(asked.paragraphs, len(asked.paragraphs)) for _ in range(2)]
            others = [everything[(number + step) % len(everything)].question for step in (1, 2)]
            first, second = (ask("\n\n".join(order), other) for order, other in zip(orders, others, strict=True))
            taken += 1
            yield asked, (first, second, target)


@contextmanager
def _mixed(other: Lookup, *, weighted: bool) -> Iterator[None]:
    """For the time of the context, tokens in identical runs of both readings are served by the mean of their rows."""

    def mix(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[View],
        wanted: NDArray[np.bool_],
    ) -> None:
        both = wanted & (plan.source == Source.MOVED) & (other.plan.source == Source.MOVED)
        if not both.any():
            return
        weight = torch.tensor(0.5)
        if weighted:
            shared, its = (1 - context_mismatch(each)[0][both] for each in (plan, other.plan))
            weight = torch.from_numpy(its / (shared + its))[:, None]
        blend_in(cache, spec, other.plan, other.entries, both, weight)

    with after_laying(mix):
        yield
