"""Situations, observations and calibrations of no model: what the tests of levels share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semshare_core.budget.calibration import RATIOS, Calibration, Observation, measured_ratios
from semshare_core.budget.features import PlanFeatures
from semshare_core.calibrate.fitting import fit_calibration
from semshare_core.match.plan import ReusePlan, Source

PARTS = {"architecture": "a", "config": "b", "weights": "c", "tokenizer": "d", "dtype": "float32"}


def made_features(seed: int, **changes: float) -> PlanFeatures:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(300, 3000))
    fuzzy, new = int(0.3 * n * rng.random()), int(0.1 * n * rng.random())
    made = PlanFeatures(
        tokens=n,
        suffix=n - 10,
        must=new + 20,
        worth=new + 20 + 2 * fuzzy,
        moved=n - 30 - fuzzy - new,
        fuzzy=fuzzy,
        new=new,
        runs=fuzzy // 3,
        seams=int(rng.integers(0, 9)),
        question=20,
        references=int(rng.integers(1, 5)),
        similarity=float(rng.uniform(0.9, 1)),
        mismatch=float(rng.uniform(0, 0.6)) * n,
        begins=float(rng.uniform(0, 0.1)) * n,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def observations(count: int, noise: float = 0.3, scale: float = 0.2) -> list[Observation]:
    """Calls whose KL falls with the ratio, and with noise that nothing known beforehand explains."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        plan = made_features(number)
        factor = float(np.exp(rng.normal(0, noise)))
        made.append(
            Observation(
                id=str(number),
                prompts=str(number),
                kind="ab"[number % 2],
                features=plan,
                ratios=measured_ratios(plan),
                kl=[scale * factor * (1 - ratio) ** 4 for ratio in measured_ratios(plan)],
                seconds=[0.02 + 2e-3 * plan.computed(ratio) + 1e-5 * plan.tokens for ratio in measured_ratios(plan)],
                full_seconds=2e-3 * plan.tokens,
            )
        )
    return made


def chains_of(count: int, turns: int, level: str = "balanced") -> list[Observation]:
    """Chains whose turns err alike: what one turn does not explain, the others do not either."""
    several = observations(count + 1000, noise=0.4)[1000:]
    return [
        item.model_copy(
            update={"id": f"{level}-{item.id}-{turn}", "chain": f"{level}-{item.id}", "turn": turn, "level": level}
        )
        for item in several
        for turn in range(1, turns + 1)
    ]


def made(count: int = 120, noise: float = 0.3, scale: float = 0.2) -> Calibration:
    return fit_calibration(observations(count, noise, scale), PARTS, "made up", RATIOS)


def plan_of(exact: int, fuzzy: int = 0, new: int = 0) -> ReusePlan:
    n = exact + fuzzy + new
    source = np.repeat([Source.MOVED, Source.FUZZY, Source.NEW], [exact, fuzzy, new]).astype(np.int8)
    served = source != Source.NEW
    position = np.where(served, np.arange(n) + 50, -1)
    return ReusePlan(source, np.where(served, 0, -1), position, ("a",), similarity=0.95)
