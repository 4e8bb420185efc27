"""Chats whose prompt changes: what it is worth to compute the begin of the model's last answer.

Calibration's chains, which are served at ``balanced``. At each turn from the second on, the smallest ratio computes
what must be computed and little else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

import benchmarks.ablations  # noqa: F401 -- registers the selection that a variant names
from benchmarks.measure import Measured, baseline, measure
from benchmarks.sections.figure import Figure, Run, item
from semshare_core import ReusePolicy
from semshare_core.calibrate.chains import Chain, draw_chains

CHAINS, TURNS, TOKENS, RATIO, SEED = 11, 4, 32, 0.05, 100
POLICIES = {
    "ours": ReusePolicy(recompute_ratio=RATIO),
    "the last answer is reused": ReusePolicy(recompute_ratio=RATIO, selection="old_answers"),
}


def answers(run: Run) -> Iterator[Figure]:
    """The KL with and without the rule, at turns two to four."""
    found: dict[str, list[tuple[str, Measured]]] = defaultdict(list)
    for chain in draw_chains(run.count(CHAINS), SEED):
        for name, several in _measured(run, chain).items():
            found[name] += several
    for name, several in found.items():
        kl = np.array([measured.kl for _, measured in several])
        spent = float(np.mean([measured.report.recompute_ratio for _, measured in several]))
        told = f"KL mean {kl.mean():.4f}, largest {kl.max():.3f}, above 0.05 in {(kl > 0.05).sum()} of {len(kl)}"
        yield Figure(f"chats: {name}", f"{told}; recomputed {spent:.3f}", items=[item(*each) for each in several])


def _measured(run: Run, chain: Chain) -> dict[str, list[tuple[str, Measured]]]:
    found: dict[str, list[tuple[str, Measured]]] = defaultdict(list)
    prompts = chain.prompts()
    messages = next(prompts)
    run.engine.pool.clear()
    for turn in range(1, TURNS + 1):
        if turn > 1:
            base = baseline(run.engine, messages, TOKENS)
            for name, policy in POLICIES.items():
                found[name].append((f"{chain.id}-{turn}", measure(run.engine, messages, policy, base)))
            run.say(f"{chain.id}, turn {turn}: " + ", ".join(f"{n} {all_[-1][1].kl:.4f}" for n, all_ in found.items()))
        served = run.engine.generate(messages, reuse="balanced", max_new_tokens=40)
        if turn < TURNS:
            messages = prompts.send(served.text)
    run.engine.pool.clear()
    return found
