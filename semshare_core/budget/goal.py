"""The meaning of a call's ``reuse`` setting, decoded once at the beginning of the call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.method import method_of
from semshare_core.config import ReusePolicy


class Mode(Enum):
    """The four things that ``reuse`` can mean."""

    OFF = "off"  # compute everything
    LOSSLESS = "lossless"  # reuse only a prefix whose rows equal a full prefill's
    BOUNDED = "bounded"  # a level: recompute enough to keep the answer's KL within the level's bound
    FIXED = "fixed"  # a recompute ratio: recompute that share, with no bound on the KL


@dataclass(frozen=True)
class Goal:
    """A decoded policy. ``Goal(ReusePolicy(level="fast"))`` has the mode ``BOUNDED`` and a bound of 0.15 nats."""

    policy: ReusePolicy

    @cached_property
    def mode(self) -> Mode:
        """The meaning of the policy."""
        if self.policy.level in ("off", "exact"):
            return Mode.OFF if self.policy.level == "off" else Mode.LOSSLESS
        return Mode.BOUNDED if self.ratio is None else Mode.FIXED

    @cached_property
    def level(self) -> str:
        """The level's name, or ``custom`` if the policy fixes the recompute ratio."""
        return self.policy.level or ("balanced" if self.policy.recompute_ratio is None else "custom")

    @cached_property
    def ratio(self) -> float | None:
        """The fixed recompute ratio; None if the policy has a level."""
        if self.policy.recompute_ratio is not None:
            return self.policy.recompute_ratio
        decays = self.policy.level is None and self.policy.schedule == "decay"
        return _published_ratio(self.policy) if decays else None

    @property
    def approximates(self) -> bool:
        """Whether approximate rows may serve."""
        return self.mode in (Mode.BOUNDED, Mode.FIXED)

    @property
    def promised(self) -> bool:
        """Whether a level's promise applies to the answer."""
        return self.mode is Mode.BOUNDED

    @cached_property
    def method(self) -> str:
        """The settings that differ from the calibrated method, such as ``halo=0``; empty if none differ."""
        return method_of(self.policy)

    @cached_property
    def bound(self) -> float:
        """The largest KL in nats that the level promises; infinite without a level, or with another method.

        A level with a fixed ratio promises nothing, but has the level's plan.
        """
        return BOUNDS[self.level].kl if self.level in BOUNDS and not self.method else math.inf


def _published_ratio(policy: ReusePolicy, share: float = 0.4, layers: int = 30) -> float:
    """The average ratio of the paper's schedule: all rows in layer 1, 40 % in layer 2, then less by ``decay``."""
    return (1 + share * sum(policy.decay**step for step in range(layers - 1))) / layers
