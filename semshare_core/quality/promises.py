"""Whether the levels keep their promises, by the canary's measurements. A broken promise makes its level stricter."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS, stricter
from semshare_core.process import forking
from semshare_core.quality.sequential_test import too_often
from semshare_core.report import Canary


@dataclass(frozen=True)
class Tally:
    """Chosen calls of one method that requested ``level`` and were served at ``served_level``.

    Attributes:
        method: the settings that differ from the calibrated ones, such as ``halo=0``; empty if none differ.
        bound: the promised KL in nats. None: nothing is promised, the calls are only measured.
        checked: the number of measured calls. Lossless calls count with a KL of 0 if something is promised; dropped
            calls do not count.
        broken: the number of checked calls whose KL exceeded ``bound``.
        mean_kl: in nats; ``max_kl``: of the worst call.
    """

    level: str
    served_level: str
    method: str = ""
    bound: float | None = None
    checked: int = 0
    broken: int = 0
    mean_kl: float = 0.0
    max_kl: float = 0.0

    def with_call(self, kl: float, broken: bool) -> Tally:
        """The tally with one call more."""
        checked = self.checked + 1
        return replace(
            self,
            checked=checked,
            broken=self.broken + broken,
            mean_kl=self.mean_kl + (kl - self.mean_kl) / checked,
            max_kl=max(self.max_kl, kl),
        )


class Promises:
    """Counts and served levels, for each method separately. Thread-safe."""

    def __init__(self) -> None:
        self._lock = forking.whole(threading.Lock())
        self._served: dict[tuple[str, str], str] = {}
        self._tallies: dict[tuple[str, str, str, float | None], Tally] = {}

    def served(self, goal: Goal) -> Goal:
        """``goal``, made stricter where its level's promise was broken too often."""
        if not goal.promised:
            return goal
        now = self.served_level(goal.level, goal.method)
        return goal if now == goal.level else Goal(goal.policy.model_copy(update={"level": now}))

    def served_level(self, level: str, method: str = "") -> str:
        """The level at which calls for ``level`` are served now."""
        with self._lock:
            return self._served.get((level, method), level)

    def tallies(self) -> list[Tally]:
        """The counts by requested level, served level, method and bound."""
        with self._lock:
            return list(self._tallies.values())

    def count(self, canary: Canary) -> Tally | None:
        """Count a measured call. Returns its tally if this call made the level stricter."""
        assert canary.kl is not None
        key = (canary.level, canary.served_level, canary.method, canary.bound)
        promise = (canary.level, canary.method)
        with self._lock:
            tally = self._tallies.get(key, Tally(*key)).with_call(canary.kl, bool(canary.broken))
            self._tallies[key] = tally
            # a call from before the level became stricter says nothing about the present level
            now = self._served.get(promise, canary.level)
            if canary.bound is None or canary.served_level != now or now == "exact":
                return None
            if not too_often(tally.broken, tally.checked, BOUNDS[canary.level].share):
                return None
            self._served[promise] = stricter(now)
            return tally

    def reset(self) -> None:
        """Forget all counts. Every level is served as requested again."""
        with self._lock:
            self._served.clear()
            self._tallies.clear()
