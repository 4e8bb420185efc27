"""What each level promises: how far from the full prefill's its answers may lie, and how often they may lie farther."""

from __future__ import annotations

import math
from dataclasses import dataclass

from semshare_core.budget.method import method_of
from semshare_core.config import ReusePolicy

MEASURED_TOKENS = 32
"""The divergence of a call is the mean over so many first tokens of its answer."""


@dataclass(frozen=True)
class Bound:
    """A promise: at most ``share`` of a level's calls have a divergence above ``kl``.

    Attributes:
        kl: KL(full prefill || reuse) in nats, the mean over the first :data:`MEASURED_TOKENS` tokens of the answer.
        share: of the calls, those may exceed it.
    """

    kl: float
    share: float = 0.05


BOUNDS = {"high": Bound(0.02), "balanced": Bound(0.05), "fast": Bound(0.15)}
"""By level. ``off`` and ``exact`` need none: their answers are the full prefill's."""

_STRICTER = {"fast": "balanced", "balanced": "high", "high": "exact"}


def level_of(policy: ReusePolicy) -> str:
    """The level that ``policy`` asks for; ``custom`` if it fixes the recomputation instead."""
    return policy.level or ("balanced" if policy.recompute_ratio is None else "custom")


def promised(policy: ReusePolicy) -> bool:
    """Whether answers under ``policy`` are bound to a level's promise: the governor chooses what is recomputed."""
    governed = policy.level is not None or policy.schedule == "constant"  # the published schedule brings its own amount
    return policy.recompute_ratio is None and governed and level_of(policy) in BOUNDS


def bound_of(policy: ReusePolicy) -> float:
    """The KL in nats that ``policy`` keeps approximate answers within; infinite where no level vouches for it.

    None does for another method than it was calibrated with.
    """
    return BOUNDS[level_of(policy)].kl if promised(policy) and not method_of(policy) else math.inf


def stricter(level: str) -> str:
    """The next level that promises more; ``exact`` is the last."""
    return _STRICTER[level]
