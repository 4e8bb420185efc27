"""The same passages in another order, 5 % of the words changed: speed-up and divergence of the same calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from statistics import mean

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import Measured, baseline, full_prefill, measure
from benchmarks.sections.figure import Figure, Run, item, means
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy
from semshare_core.prompt.encode import Prompt

Within = Callable[[], AbstractContextManager[object]]
SEEDS = {"chat": range(10, 16), "text": range(10, 12)}
"""The selection's constants were chosen on the pairs of the seeds 0 to 3."""
TOKENS, REPEATS = 4600, 3
SPEEDUP, KL = 6.25, 0.03
POLICIES = {"balanced": ReusePolicy(level="balanced")} | {
    f"ratio {ratio}": ReusePolicy(recompute_ratio=ratio) for ratio in (0.065, 0.075, 0.085, 0.13)
}


def shuffled(run: Run) -> Iterator[Figure]:
    """As chat messages, for which the promise is made, and as plain text."""
    for form, seeds in SEEDS.items():
        pairs = shuffled_edits(
            chapter_texts("web"),
            run.count_tokens,
            seeds=seeds[: run.count(len(seeds))],
            tokens=run.tokens(TOKENS),
        )
        found: dict[str, list[Measured]] = defaultdict(list)
        for pair in pairs:
            prompts = (as_prompt(form, pair.reference_prompt), as_prompt(form, pair.target_prompt))
            for name, measured in beside_full(run, *prompts, POLICIES, REPEATS).items():
                found[name].append(measured)
                run.say(f"{pair.id} as {form}, {name}: {means([measured])}")
        for name, several in found.items():
            met = mean(m.speedup for m in several) >= SPEEDUP and mean(m.kl for m in several) <= KL
            promised = form == "chat"
            yield Figure(
                f"shuffled, as {form}, {name}",
                means(several),
                f">= {SPEEDUP}x at KL <= {KL}" if promised else "",
                met if promised else None,
                [item(pair.id, measured) for pair, measured in zip(pairs, several, strict=True)],
            )


def as_prompt(form: str, text: str) -> Prompt:
    return [{"role": "user", "content": text}] if form == "chat" else text


def beside_full(
    run: Run,
    reference: Prompt,
    target: Prompt,
    policies: Mapping[str, ReusePolicy],
    repeats: int = 1,
    within: Mapping[str, Within] | None = None,
) -> dict[str, Measured]:
    """Measure policies on one pair, between two full prefills whose mean they are compared with.

    Args:
        within: the context in which a policy of that name is measured.
    """
    engine = run.engine
    engine.pool.clear()
    engine.warm([reference])
    base = baseline(engine, target)
    found = {}
    for name, policy in policies.items():
        with (within or {}).get(name, nullcontext)():
            found[name] = measure(engine, target, policy, base, repeats=repeats)
    seconds = mean((base.seconds, full_prefill(engine.model, base.ids)[0]))
    return {name: replace(measured, full_seconds=seconds) for name, measured in found.items()}
