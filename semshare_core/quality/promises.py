"""How the levels' promises are kept, by what the canary measured; a promise that is not makes its level stricter."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS, stricter
from semshare_core.config import ReusePolicy
from semshare_core.process import forking
from semshare_core.quality.sequential_test import too_often
from semshare_core.report import Canary


@dataclass(frozen=True)
class Tally:
    """Calls of one method that asked for ``level`` and were served at ``served_level``, of those that the canary chose.

    Attributes:
        method: the settings with which reuse works otherwise than in calibration; empty if there are none.
        bound: what the level promises of these calls; None: nothing, they are only measured.
        checked: measured, or lossless where something is promised, with a divergence of 0; not those that were dropped.
        broken: of the ``checked``, those whose divergence exceeded ``bound``.
        mean_kl: nats; ``max_kl``: of the worst call.
    """

    level: str
    served_level: str
    method: str = ""
    bound: float | None = None
    checked: int = 0
    broken: int = 0
    mean_kl: float = 0.0
    max_kl: float = 0.0

    def with_one_more(self, kl: float, broken: bool) -> Tally:
        """And another call."""
        checked = self.checked + 1
        return replace(
            self,
            checked=checked,
            broken=self.broken + broken,
            mean_kl=self.mean_kl + (kl - self.mean_kl) / checked,
            max_kl=max(self.max_kl, kl),
        )


class Promises:
    """Counts, and which level each level is served at, for each method on its own. Thread-safe."""

    def __init__(self) -> None:
        self._lock = forking.whole(threading.Lock())
        self._served: dict[tuple[str, str], str] = {}
        self._tallies: dict[tuple[str, str, str, float | None], Tally] = {}

    def served(self, policy: ReusePolicy) -> ReusePolicy:
        """``policy``, made stricter where its level's promise was broken too often."""
        goal = Goal(policy)
        if not goal.promised:
            return policy
        now = self.served_level(goal.level, goal.method)
        return policy if now == goal.level else policy.model_copy(update={"level": now})

    def served_level(self, level: str, method: str = "") -> str:
        """What calls that ask for ``level`` are served at now."""
        with self._lock:
            return self._served.get((level, method), level)

    def tallies(self) -> list[Tally]:
        """What was counted, by level asked for, level served at, method and bound."""
        with self._lock:
            return list(self._tallies.values())

    def count(self, canary: Canary) -> Tally | None:
        """Count a call whose divergence is known; its tally if it is the one that made the level stricter."""
        assert canary.kl is not None
        key = (canary.level, canary.served_level, canary.method, canary.bound)
        promise = (canary.level, canary.method)
        with self._lock:
            tally = self._tallies.get(key, Tally(*key)).with_one_more(canary.kl, bool(canary.broken))
            self._tallies[key] = tally
            # a call that was served before the level became stricter says nothing of what it is now
            now = self._served.get(promise, canary.level)
            if canary.bound is None or canary.served_level != now or now == "exact":
                return None
            if not too_often(tally.broken, tally.checked, BOUNDS[canary.level].share):
                return None
            self._served[promise] = stricter(now)
            return tally

    def reset(self) -> None:
        """Forget what was counted; every level is served as asked for again."""
        with self._lock:
            self._served.clear()
            self._tallies.clear()
