"""From items to numbers, each with its interval over the cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, median

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.item import Item
from semshare_core.budget.levels import BOUNDS, MEASURED_TOKENS

RESAMPLES, SEED, COVERED = 1000, 0, 0.95
CLEAR_LEAD = 0.4
"""Nats by which each token of an answer must lead over the next best one for it not to hang by a hair: two alternatives
at even odds which move apart by that much are a KL of 0.02 away, which even the strictest level allows."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds it 95 times of 100; ``count`` cases."""

    value: float
    low: float
    high: float
    count: int


def bootstrap(values: Sequence[float], reduce: Callable[[Values], Values]) -> Estimate:
    """Percentile bootstrap (Efron 1979) of ``reduce``, which takes [..., n] to [...]; the same for the same values."""
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(SEED).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(reduce(array[drawn]), ((1 - COVERED) / 2, (1 + COVERED) / 2))
    return Estimate(float(reduce(array)), float(low), float(high), len(array))


def wilson(values: Sequence[float]) -> Estimate:
    """A share of yes (1) among yes and no (0), with the score interval (Wilson 1927, JASA 22:209-212).

    Unlike the bootstrap's it has a width where all are alike: none of ten may well be one of twenty.
    """
    count, share = len(values), mean(values)
    z = NormalDist().inv_cdf((1 + COVERED) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z**2 / count)
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)), count)


@dataclass(frozen=True)
class Metric:
    """``of`` gives one number for an item, or None where it has none; ``reduce`` makes one of at least ``least``.

    ``yes_or_no``: the numbers are 0 or 1 and their mean is a share.
    """

    name: str
    of: Callable[[Item], float | None]
    digits: int = 3
    unit: str = ""
    higher_is_better: bool | None = None
    reduce: Callable[[Values], Values] = lambda values: values.mean(axis=-1)
    least: int = 1
    yes_or_no: bool = False

    def values(self, items: Iterable[Item]) -> list[float]:
        """Of the items that have it."""
        return [value for item in items if (value := self.of(item)) is not None]

    def estimate(self, items: Iterable[Item]) -> Estimate | None:
        """Over the items that have it; None if there are too few."""
        values = self.values(items)
        if len(values) < self.least:
            return None
        return wilson(values) if self.yes_or_no else bootstrap(values, self.reduce)

    def value(self, items: Iterable[Item]) -> float:
        """Over the items that have it; NaN if there are too few."""
        values = self.values(items)
        return float(self.reduce(np.asarray(values, np.float64))) if len(values) >= self.least else float("nan")

    def told(self, items: Iterable[Item], interval: bool = True) -> str:
        found = self.estimate(items)
        if found is None:
            return "–"
        value, low, high = (f"{number:.{self.digits}f}" for number in (found.value, found.low, found.high))
        return f"{value}{self.unit}" + (f" ({low}–{high})" if interval and found.count > 1 else "")


def speed(item: Item) -> float:
    """How many times shorter than the full prefill's the TTFT is."""
    return median(item.full_ms) / median(item.ttft_ms)


def promised_kl(item: Item) -> float | None:
    """What the levels' promises are about: the mean over the first tokens of the answer."""
    return mean(item.kl[:MEASURED_TOKENS]) if item.kl else None


def kept(item: Item) -> float | None:
    """Of the questions that the full prefill answers: 1 if this one stays answered."""
    return float(item.answered) if item.full_answered and item.answered is not None else None


def kept_clear(item: Item) -> float | None:
    """The same, of the answers that no hair decides."""
    return kept(item) if item.full_lead is not None and item.full_lead >= CLEAR_LEAD else None


def above(level: str) -> Metric:
    """The share of cases whose divergence exceeds a level's bound."""
    bound = BOUNDS[level].kl

    def exceeds(item: Item) -> float | None:
        kl = promised_kl(item)
        return None if kl is None else float(kl > bound)

    return Metric(f"share above KL {bound}", exceeds, higher_is_better=False, yes_or_no=True)


def _geometric(values: Values) -> Values:
    return np.exp(np.log(values).mean(axis=-1))


def _flag(value: bool | None) -> float | None:
    return None if value is None else float(value)


SPEED = Metric("speed", speed, 2, "×", True, _geometric)
"""Geometric mean: twice as fast here and half as fast there is no gain."""
KL = Metric("KL", lambda item: mean(item.kl) if item.kl else None, higher_is_better=False)
KL_P95 = Metric("KL, 95th percentile", KL.of, reduce=lambda values: np.quantile(values, 0.95, axis=-1), least=10)
AGREEMENT = Metric("agreement", lambda item: mean(item.agree) if item.agree else None, higher_is_better=True)
ROUGE_L = Metric("ROUGE-L", lambda item: item.rouge_l, higher_is_better=True)
ACCURACY = Metric("answered", lambda item: _flag(item.answered), 2, "", True, yes_or_no=True)
KEPT = Metric("kept answers", kept, 2, "", True, yes_or_no=True)
KEPT_CLEAR = Metric(f"kept, lead ≥ {CLEAR_LEAD}", kept_clear, 2, "", True, yes_or_no=True)
STALE = Metric("stale answers", lambda item: _flag(item.stale), 2, "", False, yes_or_no=True)
RATIO = Metric("recomputed", lambda item: item.recompute_ratio, 2)
KV_SHARE = Metric("KV bytes, of the full cache", lambda item: item.kv_bytes / item.kv_bytes_full, 2, "", False)
PEAK = Metric("peak GiB", lambda item: None if item.peak_bytes is None else item.peak_bytes / 2**30, 2, "", False)


def approximate(items: Iterable[Item]) -> list[Item]:
    """Those whose answer may differ from the full prefill's: the others compute in full or reuse what is identical."""
    return [item for item in items if item.outcome == "semantic"]


def grouped(items: Iterable[Item], key: Callable[[Item], str]) -> dict[str, list[Item]]:
    """In the order in which the keys came."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def by_system(items: Iterable[Item], workload: str) -> dict[str, list[Item]]:
    """The items of a workload."""
    return grouped((item for item in items if item.workload == workload), lambda item: item.system)


def common_cases(groups: dict[str, list[Item]]) -> dict[str, list[Item]]:
    """Each system's items on the cases that all of them have, so that none is judged by easier ones."""
    shared = set.intersection(*({item.case for item in group} for group in groups.values())) if groups else set()
    return {name: [item for item in group if item.case in shared] for name, group in groups.items()}


def same_cases(groups: dict[str, list[Item]]) -> list[dict[str, list[Item]]]:
    """For each set of cases that a system was measured on: all systems that have them, on these cases alone.

    Those with the most systems come first.
    """
    cases = {name: frozenset(item.case for item in group) for name, group in groups.items()}
    made = [
        {
            name: [item for item in group if item.case in chosen]
            for name, group in groups.items()
            if chosen <= cases[name]
        }
        for chosen in dict.fromkeys(cases.values())
    ]
    return sorted(made, key=len, reverse=True)
