"""What a call's ``reuse`` asks for, worked out once at its beginning."""

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
    LOSSLESS = "lossless"  # reuse a prefix whose rows are those of a full prefill, and nothing else
    BOUNDED = "bounded"  # a level: recompute as much as keeps the answer's KL within the level's bound
    FIXED = "fixed"  # a recompute ratio: spend it, whatever the answer's KL


@dataclass(frozen=True)
class Goal:
    """A policy, decoded. ``Goal(ReusePolicy(level="fast")).mode`` is ``Mode.BOUNDED``, its ``bound`` 0.15 nats."""

    policy: ReusePolicy

    @cached_property
    def mode(self) -> Mode:
        """What the policy asks for."""
        if self.policy.level in ("off", "exact"):
            return Mode.OFF if self.policy.level == "off" else Mode.LOSSLESS
        return Mode.BOUNDED if self.ratio is None else Mode.FIXED

    @cached_property
    def level(self) -> str:
        """The level's name; ``custom`` where the policy fixes the recomputation instead."""
        return self.policy.level or ("balanced" if self.policy.recompute_ratio is None else "custom")

    @cached_property
    def ratio(self) -> float | None:
        """The recompute ratio that the policy fixes; None: it names a level."""
        if self.policy.recompute_ratio is not None:
            return self.policy.recompute_ratio
        decays = self.policy.level is None and self.policy.schedule == "decay"
        return _published_ratio(self.policy) if decays else None

    @property
    def approximates(self) -> bool:
        """Whether rows that are not those of a full prefill may serve."""
        return self.mode in (Mode.BOUNDED, Mode.FIXED)

    @property
    def searches(self) -> bool:
        """Whether the lookup asks for similar prompts and identical runs, and not for a prefix alone."""
        return self.approximates and self.policy.max_depth > 0

    @property
    def promised(self) -> bool:
        """Whether the answer is bound to a level's promise."""
        return self.mode is Mode.BOUNDED

    @cached_property
    def method(self) -> str:
        """How the policy differs from the method that models are calibrated with; empty: not at all."""
        return method_of(self.policy)

    @property
    def bound(self) -> float:
        """The KL in nats that approximate answers are kept within; infinite where no level vouches for them.

        No level vouches for another method than it was calibrated with.
        """
        return BOUNDS[self.level].kl if self.promised and not self.method else math.inf


def _published_ratio(policy: ReusePolicy, share: float = 0.4, layers: int = 30) -> float:
    """Average ratio of the paper's schedule: everything in layer 1, 40 % in layer 2, then falling by ``decay``."""
    return (1 + share * sum(policy.decay**step for step in range(layers - 1))) / layers
