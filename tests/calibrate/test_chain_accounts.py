"""Chains that were measured under an earlier fit, in a later one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from made_up_calibration import observations
from semshare_core.budget.calibration import RATIOS, Observation, kl_table
from semshare_core.calibrate.chain_accounts import with_accounts

UPPER = 0.04


def turns(count: int, **features: float) -> list[Observation]:
    """A chain whose turns were served at the second measured ratio."""
    first = observations(1)[0]
    drawing = {"approximate": first.features.tokens // 2, "inherited": 0.001, **features}
    return [
        first.model_copy(
            update={
                "chain": "c",
                "level": "fast",
                "turn": turn,
                "served_kl": first.kl[1],
                "features": first.features if turn == 2 else replace(first.features, **drawing),
            }
        )
        for turn in range(2, count + 2)
    ]


def told(items: list[Observation]) -> list[Observation]:
    kl = kl_table(items, RATIOS)
    upper = np.full(kl.shape, UPPER)
    upper[:, 2:] = 1e9  # of ratios at which no turn was served
    return with_accounts(items, kl, upper)


def test_a_turn_draws_on_the_account_that_the_forecast_gives_the_turn_before() -> None:
    second, third = told(turns(2))
    assert second.features.inherited == 0
    assert third.features.kept == pytest.approx(UPPER)
    assert third.features.inherited == pytest.approx(UPPER / 2, rel=0.01)


def test_the_order_of_a_chain_is_that_of_its_turns() -> None:
    found = told(turns(3)[::-1])
    assert [item.features.kept for item in found] == pytest.approx([UPPER, UPPER, 0])


def test_an_account_does_not_fall_while_its_rows_stay() -> None:
    items = turns(4)
    kl = kl_table(items, RATIOS)
    upper = np.array([[0.05], [0.02], [0.01], [0.01]]) * np.ones(kl.shape)
    assert [item.features.kept for item in with_accounts(items, kl, upper)] == pytest.approx([0, 0.05, 0.05, 0.05])


def test_behind_a_turn_that_was_computed_in_full_what_was_measured_stays() -> None:
    items = turns(3)
    items[1] = items[1].model_copy(update={"served_kl": 0.0})
    assert told(items)[2].features.inherited == pytest.approx(0.001)


def test_pairs_stay_as_they_are() -> None:
    pairs = observations(3)
    assert told(pairs) == pairs
