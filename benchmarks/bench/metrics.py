"""From items to numbers, each with its bootstrap interval over the cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.item import Item
from semshare_core.quality.bounds import BOUNDS, MEASURED_TOKENS

RESAMPLES, SEED, COVERED = 1000, 0, 0.95
CLEAR_LEAD = 0.4
"""Nats by which each token of an answer must lead over the next best one for it not to hang by a hair: two alternatives
at even odds which move apart by that much are a KL of 0.02 away, which even the strictest level allows."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and the interval that holds it 95 times of 100, going by resampled cases; ``count`` cases."""

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


@dataclass(frozen=True)
class Metric:
    """``of`` gives one number for an item, or None where it has none; ``reduce`` makes one of at least ``least``."""

    name: str
    of: Callable[[Item], float | None]
    digits: int = 3
    unit: str = ""
    higher_is_better: bool | None = None
    reduce: Callable[[Values], Values] = lambda values: values.mean(axis=-1)
    least: int = 1

    def values(self, items: Iterable[Item]) -> list[float]:
        """Of the items that have it."""
        return [value for item in items if (value := self.of(item)) is not None]

    def estimate(self, items: Iterable[Item]) -> Estimate | None:
        """Over the items that have it; None if there are too few."""
        values = self.values(items)
        return bootstrap(values, self.reduce) if len(values) >= self.least else None

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

    return Metric(f"share above KL {bound}", exceeds, higher_is_better=False)


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
ACCURACY = Metric("answered", lambda item: _flag(item.answered), 2, "", True)
FULL_ACCURACY = Metric("answered by the full prefill", lambda item: _flag(item.full_answered), 2, "", True)
KEPT = Metric("kept answers", kept, 2, "", True)
KEPT_CLEAR = Metric(f"kept, lead ≥ {CLEAR_LEAD}", kept_clear, 2, "", True)
STALE = Metric("stale answers", lambda item: _flag(item.stale), 2, "", False)
FULL_STALE = Metric("stale answers of the full prefill", lambda item: _flag(item.full_stale), 2, "", False)
RATIO = Metric("recomputed", lambda item: item.recompute_ratio, 2)
KV_SHARE = Metric("KV bytes, of the full cache", lambda item: item.kv_bytes / item.kv_bytes_full, 2, "", False)
KV_MIB = Metric("KV MiB", lambda item: item.kv_bytes / 2**20, 0, "", False)
PEAK = Metric("peak GiB", lambda item: None if item.peak_bytes is None else item.peak_bytes / 2**30, 2, "", False)


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
