"""Shares and their intervals: whole chains are drawn again, because the turns of one chain depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.agents.item import TurnItem
from benchmarks.bench.metrics import COVERED, RESAMPLES, SEED


@dataclass(frozen=True)
class Share:
    """``hits`` of ``count``, and the interval of the share."""

    hits: int
    count: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.hits / self.count if self.count else 0.0

    def told(self) -> str:
        if not self.count:
            return "none"
        return f"{self.value:.1%} ({self.low:.1%}–{self.high:.1%}), {self.hits} of {self.count}"


def share(items: Sequence[TurnItem], hit: Callable[[TurnItem], bool]) -> Share:
    """The share of ``items`` that are hits, with a 95 % interval by resampling chains (cluster bootstrap).

    Where nothing was hit, resampling shows no width. The upper end is then the largest share of chains at which so many
    chains would show no hit in 1 of 20 cases: 1 - 0.05 ** (1 / chains).
    """
    groups = _by_chain(items)
    counts = np.array([[sum(map(hit, group)), len(group)] for group in groups.values()], np.float64).reshape(-1, 2)
    hits, count = (int(total) for total in counts.sum(axis=0))
    if not count:
        return Share(0, 0, 0.0, 1.0)
    if not hits:
        return Share(0, count, 0.0, float(1 - (1 - COVERED) ** (1 / len(counts))))
    drawn = np.random.default_rng(SEED).integers(len(counts), size=(RESAMPLES, len(counts)))
    totals = counts[drawn].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], ((1 - COVERED) / 2, (1 + COVERED) / 2))
    return Share(hits, count, float(low), float(high))


@dataclass(frozen=True)
class Comparison:
    """How often something holds for a system and for what it is held against, on the same turns or questions.

    Attributes:
        most: the upper end of the one-sided 95 % interval of the difference (system - floor): below 0 the system is
            worse than chance explains.
    """

    held: int
    floor: int
    count: int
    most: float

    @property
    def met(self) -> bool | None:
        """None: nothing was compared."""
        return None if not self.count else self.held >= self.floor or self.most >= 0


def compared(pairs: Sequence[tuple[str, bool, bool]]) -> Comparison:
    """Of (chain or document, holds for the system, holds for the floor), with a bootstrap over whole chains."""
    groups: dict[str, list[tuple[int, int]]] = {}
    for chain, ours, floor in pairs:
        groups.setdefault(chain, []).append((ours, floor))
    counts = np.array([[*map(sum, zip(*group, strict=True)), len(group)] for group in groups.values()], np.float64)
    if not len(counts):
        return Comparison(0, 0, 0, 0.0)
    held, floor_held, count = (int(total) for total in counts.sum(axis=0))
    drawn = np.random.default_rng(SEED).integers(len(counts), size=(RESAMPLES, len(counts)))
    totals = counts[drawn].sum(axis=1)
    most = float(np.quantile((totals[:, 0] - totals[:, 1]) / totals[:, 2], COVERED))
    return Comparison(held, floor_held, count, most)


def _by_chain(items: Sequence[TurnItem]) -> dict[str, list[TurnItem]]:
    groups: dict[str, list[TurnItem]] = {}
    for item in items:
        groups.setdefault(item.chain, []).append(item)
    return groups
