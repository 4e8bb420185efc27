"""A broken promise is told from a kept one, however often one looks."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semshare_core.quality.sequential_test import FALSE_ALARM_RISK, log_bet, too_often


@given(st.integers(1, 60), st.floats(0.01, 0.5))
def test_the_bet_is_fair(checked: int, share: float) -> None:
    """At the promised share it is worth one on average: what keeps false alarms as rare as they are said to be."""
    worth = sum(
        math.comb(checked, broken) * share**broken * (1 - share) ** (checked - broken)
        * math.exp(log_bet(broken, checked, share))
        for broken in range(checked + 1)
    )  # fmt: skip
    assert worth == pytest.approx(1, rel=1e-6)


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0.01, 0.5))
def test_the_bet_averages_the_likelihood_ratio(checked: int, broken: int, share: float) -> None:
    """The closed form beside a sum over shares."""
    broken = min(broken, checked)
    steps = 4000
    shares = [share + (1 - share) * (step + 0.5) / steps for step in range(steps)]
    ratios = [(p / share) ** broken * ((1 - p) / (1 - share)) ** (checked - broken) for p in shares]
    assert math.exp(log_bet(broken, checked, share)) == pytest.approx(sum(ratios) / steps, rel=1e-2)


@given(st.integers(1, 200), st.data())
def test_more_broken_is_more_evidence(checked: int, data: st.DataObject) -> None:
    broken = data.draw(st.integers(0, checked - 1))
    assert log_bet(broken + 1, checked, 0.05) > log_bet(broken, checked, 0.05)


def ever_too_often(rng: random.Random, share: float, calls: int) -> bool:
    broken = 0
    for checked in range(1, calls + 1):
        broken += rng.random() < share
        if too_often(broken, checked, 0.05):
            return True
    return False


def test_looking_after_every_call_raises_few_false_alarms() -> None:
    """A binomial test at 5 % after each call would raise one in most of these runs."""
    rng = random.Random(0)
    runs = 300
    assert sum(ever_too_often(rng, 0.05, 300) for _ in range(runs)) / runs <= FALSE_ALARM_RISK
    assert all(ever_too_often(rng, 0.3, 300) for _ in range(runs))


@pytest.mark.parametrize(("broken", "checked"), [(0, 100_000), (2000, 2000), (30_000, 100_000)])
def test_long_runs_overflow_nothing(broken: int, checked: int) -> None:
    assert too_often(broken, checked, 0.05) is (broken > 0)
