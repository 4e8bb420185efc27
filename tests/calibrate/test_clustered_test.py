"""A promise is tested on chains whose calls depend on each other: the test errs as seldom as it says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semshare_core.calibrate.clustered_test import binomial_tail, chance_of_so_few

SHARE, RISK = 0.05, 0.1


def drawn(calls: NDArray[np.int64], share: float, alike: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Broken calls of each unit. With the probability ``alike`` all calls of a unit break, or none does."""
    together = rng.random(len(calls)) < alike
    whole = calls * (rng.random(len(calls)) < share)
    return np.where(together, whole, rng.binomial(calls, share))


@pytest.mark.parametrize("alike", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("pairs", [0, 150])
def test_a_promise_that_is_not_kept_is_seldom_taken_for_kept(pairs: int, alike: float) -> None:
    rng = np.random.default_rng(pairs)
    calls = np.array([1] * pairs + [7] * 90)
    wrong = sum(chance_of_so_few(drawn(calls, SHARE, alike, rng), calls, SHARE) <= RISK for _ in range(2000))
    assert wrong <= RISK * 2000


def test_a_binomial_test_of_the_calls_errs_more_often_than_it_says() -> None:
    """Why there is another test."""
    rng = np.random.default_rng(1)
    calls = np.full(90, 7)
    wrong = sum(binomial_tail(int(drawn(calls, SHARE, 1.0, rng).sum()), 630, SHARE) <= RISK for _ in range(2000))
    assert wrong > 1.5 * RISK * 2000


def test_a_promise_that_is_kept_well_is_found_to_be_kept() -> None:
    rng = np.random.default_rng(2)
    calls = np.array([1] * 300 + [7] * 90)
    found = sum(chance_of_so_few(drawn(calls, 0.015, 0.1, rng), calls, SHARE) <= RISK for _ in range(200))
    assert found > 150


def test_a_chain_counts_as_one_call_however_long_it_is() -> None:
    calls, broken = np.array([1] * 150 + [7] * 50), np.zeros(200, np.int64)
    broken[[0, 150]] = 1, 7
    short = np.minimum(calls, 2)
    assert chance_of_so_few(broken, calls, SHARE) == chance_of_so_few(np.minimum(broken, 2), short, SHARE)
    assert chance_of_so_few(broken, calls, SHARE) == pytest.approx(2 * binomial_tail(2, 200, SHARE))
    assert chance_of_so_few(calls, calls, SHARE) == 1.0


def test_a_chain_that_breaks_in_part_is_the_mean_over_its_calls() -> None:
    calls, broken = np.array([1] * 100 + [4]), np.zeros(101, np.int64)
    broken[100] = 1
    expected = 2 * (0.75 * binomial_tail(0, 101, SHARE) + 0.25 * binomial_tail(1, 101, SHARE))
    assert chance_of_so_few(broken, calls, SHARE) == pytest.approx(expected)


def test_a_few_chains_do_not_outvote_many_pairs() -> None:
    calls = np.array([1] * 280 + [6])
    broken = np.zeros(281, np.int64)
    broken[:4] = 1
    assert chance_of_so_few(broken, calls, SHARE) <= RISK


def test_single_calls_have_the_exact_test() -> None:
    broken = np.array([1] * 3 + [0] * 117)
    assert chance_of_so_few(broken, np.ones(120, np.int64), SHARE) == binomial_tail(3, 120, SHARE)
