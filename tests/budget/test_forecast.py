"""What is forecast of a call: its divergence, with the margin that keeps a promise, and its time."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up_calibration import made_features
from semshare_core.budget.calibration import RATIOS, choices, chosen, measured_ratios
from semshare_core.budget.cost import CostModel
from semshare_core.budget.features import FEATURES
from semshare_core.budget.forecast import Forecast, log_kl
from semshare_core.budget.spread import Spread, UsualError
from semshare_core.calibrate.clustered_test import binomial_tail
from semshare_core.calibrate.fitting import cross_fitted
from semshare_core.calibrate.risk import MARGIN_RISK, margin_for

# --- the forecast ---


def _known(prompts: int) -> np.ndarray:
    return np.stack([[made_features(seed).vector(ratio) for ratio in (0.1, 0.3)] for seed in range(prompts)])


def test_a_forecast_finds_what_the_kl_depends_on() -> None:
    features = _known(200)
    kl = np.exp(2 * features[..., FEATURES.index("share new")] - 3)  # that alone
    found = Forecast(features[:150], kl[:150]).log_kl(features[150:])
    assert np.abs(found - log_kl(kl[150:])).mean() < 0.05


def test_a_forecast_does_not_go_beyond_what_was_seen() -> None:
    features = _known(50)
    fitted = Forecast(features, np.exp(features[..., 2] - 8))
    highest = features.max(axis=(0, 1))
    assert fitted.log_kl(highest + 9 * np.abs(highest)) == pytest.approx(fitted.log_kl(highest))
    assert fitted.log_kl(np.full(len(FEATURES), 1e9)) == pytest.approx(fitted.log_kl(highest))


def test_what_one_prompt_alone_shows_at_all_ratios_moves_forecasts_less_than_as_many_prompts() -> None:
    one = _known(30)
    asked, kl = one[0, 0], np.full((30, 2), 0.02)
    surprising = kl.copy()
    surprising[0] = 1.0
    plain = float(Forecast(one, kl).log_kl(asked))
    moved = float(Forecast(one, surprising).log_kl(asked)) - plain
    assert 0 < moved < 0.6 * float(log_kl(1.0) - log_kl(0.02))


def test_a_ratio_that_was_not_tried_is_not_forecast_from_and_not_chosen() -> None:
    features = np.stack([[made_features(seed).vector(ratio) for ratio in (0.1, 0.3, 0.6)] for seed in range(30)])
    kl = np.exp(features[..., 2] - 4) * np.linspace(0.5, 2, 30)[:, None]
    untried = kl.copy()
    untried[:, 2] = np.nan
    asked = features[3, :2]
    fewer = Forecast(features[:, :2], kl[:, :2]).log_kl(asked)
    assert Forecast(features, untried).log_kl(asked) == pytest.approx(fewer)
    forecast, spread, errors = cross_fitted([made_features(seed) for seed in range(30)], untried, (0.1, 0.3, 0.6))
    largest = [0.6 in choices(made_features(seed), (0.1, 0.3, 0.6)) for seed in range(30)]
    assert np.isfinite(forecast[:, 2]).tolist() == largest, "it counts as the largest that was tried"
    assert np.isnan(errors[:, 2]).all()
    assert np.isfinite(errors[:, :2]).all()
    assert np.isfinite(spread).all()
    plans = [made_features(seed) for seed in range(30)]
    offered = [choices(plan, (0.1, 0.3)) for plan in plans]
    firsts = [(0.1, 0.3).index(ratios[0]) for ratios in offered]
    assert chosen(forecast, spread, 1e3, 0.0).tolist() == firsts
    assert set(firsts) == {0, 1}, "some may not take the smallest"
    untried[:, 0] = np.nan
    forecast, *_ = cross_fitted(plans, untried, (0.1, 0.3, 0.6))
    assert np.isinf(forecast[:, 0]).all(), "below all that were tried nothing is known"


def test_large_ratios_are_tried_where_much_differs() -> None:
    same = made_features(1, suffix=1000, moved=900, must=60)
    differs = replace(same, moved=700, must=260)
    assert max(measured_ratios(same)) == 0.5
    assert measured_ratios(differs) == list(RATIOS)
    assert measured_ratios(differs, (0.1, 0.4)) == [0.1, 0.4]


def test_where_much_differs_a_level_computes_what_is_worth_it_or_a_part_beyond_what_must_be() -> None:
    same = made_features(1, tokens=1000, suffix=1000, moved=900, must=60, worth=300)
    assert choices(same) == measured_ratios(same)
    few, many = (replace(same, moved=500, must=400, worth=worth) for worth in (450, 900))
    assert min(choices(few)) == 0.5
    assert min(choices(many)) == 0.58
    assert choices(replace(many, must=700, worth=900)) == [], "too little is left to reuse"
    assert choices(replace(many, must=700, worth=780)) == [0.8]


def test_the_usual_error_falls_with_the_length_where_it_does() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.uniform(200, 6000, 300)
    errors = rng.normal(0, (400 / tokens**0.5)[:, None], (300, 4))
    found = Spread.fit(tokens, errors)
    assert found.slope == pytest.approx(-0.5, abs=0.15)
    assert found.of(np.array([300.0, 5000.0])).shape == (2,)
    assert found.of(300.0) / found.of(4800.0) == pytest.approx(4, rel=0.5)


def test_the_usual_error_stays_what_it_is_at_the_ends_of_what_was_measured() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.uniform(900, 1000, 60)
    found = Spread.fit(tokens, rng.normal(0, 1, (60, 4)))
    assert (found.least, found.most) == (tokens.min(), tokens.max())
    assert abs(found.slope) > 0.5, "noise, which a line that went on would make much of"
    assert found.of(np.array([50.0, 4000.0])) == pytest.approx(found.of(np.array([found.least, found.most])))


def test_prompts_of_one_length_have_one_usual_error() -> None:
    errors = np.random.default_rng(2).normal(0, 1, (60, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Spread.fit(np.full(60, 800.0), errors)
    assert found.slope == 0
    assert found.of(np.array([100.0, 800.0, 9000.0])) == pytest.approx(float(found.of(800.0)))


def test_calls_on_approximate_rows_have_a_usual_error_of_their_own() -> None:
    """Those of short prompts err less, and of long ones more: one line for both would be wrong at either end."""
    rng = np.random.default_rng(0)
    tokens = np.exp(rng.uniform(np.log(500), np.log(8000), 400))
    approximate = np.arange(400) % 2 == 0
    size = np.where(approximate, 0.5, (tokens / 500) ** -0.5)
    found = UsualError.fit(tokens, rng.normal(0, 1, (400, 4)) * size[:, None], approximate)
    assert found.of(8000.0, False) < 0.8 * found.of(8000.0, True)
    assert found.of(600.0, False) > 1.3 * found.of(600.0, True)
    both = found.of(np.array([8000.0, 8000.0]), np.array([False, True]))
    assert both.tolist() == [found.of(8000.0, False), found.of(8000.0, True)]


def test_few_calls_on_approximate_rows_share_the_line_of_all() -> None:
    tokens, approximate = np.linspace(500, 5000, 60), np.arange(60) < 5
    errors = np.random.default_rng(0).normal(0, 1, (60, 4))
    found = UsualError.fit(tokens, errors, approximate)
    assert found.approximate == Spread.fit(tokens, errors)
    assert found.lossless == Spread.fit(tokens[5:], errors[5:])


def test_features_are_named_and_what_must_be_computed_counts_as_computed() -> None:
    plan = made_features(3, must=200)
    assert len(plan.vector(0.1)) == len(FEATURES)
    assert plan.computed(0.0) == 200
    assert plan.computed(1.0) == plan.suffix
    assert plan.vector(0.0) == pytest.approx(plan.vector(200 / plan.tokens))


# --- the margin ---


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_binomial_tail(share: float) -> None:
    assert binomial_tail(0, 45, share) == pytest.approx((1 - share) ** 45)
    assert binomial_tail(45, 45, share) == pytest.approx(1)
    by_hand = sum(comb(20, k) * share**k * (1 - share) ** (20 - k) for k in range(4))
    assert binomial_tail(3, 20, share) == pytest.approx(by_hand)


@given(st.integers(0, 10_000), st.integers(60, 200), st.floats(0.0, 2.0))
def test_a_margin_is_evidence_enough_and_never_careless(seed: int, calls: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    forecast = np.sort(rng.normal(-4, 1.5, (calls, 5)), axis=1)[:, ::-1]
    spread = rng.uniform(0.5, 2.0, calls)
    measured = forecast + rng.normal(0, noise, (calls, 1)) * spread[:, None]
    limit = float(log_kl(0.05))
    margin = margin_for(forecast, spread, measured, limit, 0.05, ["one"] * calls)
    if margin is None:
        return
    index = chosen(forecast, spread, limit, margin)
    taken = index >= 0
    broken = int((taken & (measured[np.arange(calls), np.maximum(index, 0)] > limit)).sum())
    assert binomial_tail(broken, calls, 0.05) <= MARGIN_RISK


def test_the_promise_holds_for_calls_that_calibration_never_saw() -> None:
    """Over many draws of calibration prompts, margins that fail are about as rare as promised."""
    limit, failed = 0.0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        forecast = np.sort(rng.normal(0, 1, (2120, 6)), axis=1)[:, ::-1]
        measured = forecast + rng.normal(0, 1, (2120, 1))
        margin = margin_for(forecast[:120], np.ones(120), measured[:120], limit, 0.05, ["one"] * 120)
        assert margin is not None
        index = chosen(forecast[120:], np.ones(2000), limit, margin)
        beyond = (index >= 0) & (measured[120:][np.arange(2000), np.maximum(index, 0)] > limit)
        failed += beyond.mean() > 0.05
    assert failed <= 15, "at most one in ten is expected"


def test_one_kind_of_work_does_not_pay_for_another() -> None:
    rng = np.random.default_rng(0)
    forecast = np.tile(np.linspace(0, -5, 6), (120, 1))
    measured = forecast + rng.normal(0, 0.1, (120, 1))
    measured[::20] += 4  # six calls of 120, which alone would be allowed at most
    kinds = ["plain"] * 120
    hard = ["hard" if number % 20 == 0 else "plain" for number in range(120)]
    together = margin_for(forecast, np.ones(120), measured, -1.0, 0.06, kinds)
    apart = margin_for(forecast, np.ones(120), measured, -1.0, 0.06, hard)
    assert together is not None
    assert apart is None or apart > together


def test_the_first_ratio_within_the_bound_is_chosen() -> None:
    forecast = np.array([[0.0, -1.0, -2.0], [5.0, 5.0, 5.0]])
    usual = np.array([1.0, 1.0])
    assert chosen(forecast, usual, -0.5, 0.0).tolist() == [1, -1]
    assert chosen(forecast, usual, -0.5, 1.0).tolist() == [2, -1]
    assert chosen(forecast, usual / 2, -0.5, 1.0).tolist() == [1, -1], "where forecasts err less, less is added"


# --- the time ---


def test_a_cost_model_finds_what_made_the_times() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.uniform(200, 6000, 60)
    true = CostModel(fixed=0.05, row=2e-3, pair=3e-7, laid=1e-5)
    rows = np.outer(tokens, RATIOS)
    seconds = np.array([[true.reuse(int(n), int(k)) for k in line] for n, line in zip(tokens, rows, strict=True)])
    found = CostModel.fit(np.floor(tokens), np.array([true.full(int(n)) for n in tokens]), np.floor(rows), seconds)
    assert found.reuse(3000, 300) == pytest.approx(true.reuse(3000, 300), rel=0.02)
    assert found.full(3000) == pytest.approx(true.full(3000), rel=0.02)
    untried = seconds.copy()
    untried[::2, -1] = np.nan
    fulls = np.array([true.full(int(n)) for n in tokens])
    assert CostModel.fit(np.floor(tokens), fulls, np.floor(rows), untried).reuse(3000, 300) == pytest.approx(
        true.reuse(3000, 300), rel=0.02
    )


def test_to_compute_every_row_costs_a_full_prefill_and_what_reuse_costs_in_any_case() -> None:
    cost = CostModel(fixed=0.05, row=2e-3, pair=3e-7, laid=1e-5)
    assert cost.reuse(3000, 3000) == pytest.approx(cost.full(3000) + cost.fixed)
    behind_prefix = cost.full(3000) - cost.full(2000)
    assert cost.reuse(3000, 1000) == pytest.approx(behind_prefix + cost.fixed + 2000 * cost.laid)


def test_no_coefficient_is_below_zero() -> None:
    tokens = np.array([100.0, 200.0, 300.0])
    found = CostModel.fit(tokens, 1e-3 * tokens, np.outer(tokens, (0.1, 0.5)), np.outer(1e-4 * tokens, (3.0, 1.0)))
    assert min(found.model_dump(exclude={"device"}).values()) >= 0
