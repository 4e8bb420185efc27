"""Levels are bounds: what a calibration holds, and what a level chooses by it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from decided import decided
from made_up_calibration import PARTS, made, made_features, observations, plan_of
from semshare_core import Retention, ReusePolicy
from semshare_core.budget.account import Limits
from semshare_core.budget.calibration import RATIOS, Calibration
from semshare_core.budget.cost import CostModel
from semshare_core.budget.goal import Goal
from semshare_core.budget.governor import UNCALIBRATED, decide, plan_features
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.recompute import Layers
from semshare_core.budget.spread import UsualError
from semshare_core.calibrate.fitting import fit_calibration
from semshare_core.errors import ConfigError
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.quality import calibration_files
from semshare_core.quality.calibration_files import read_calibration, write_calibration

# --- a calibration ---


def test_a_stricter_level_spends_no_less() -> None:
    found = made()
    for seed in range(40):
        ratios = [found.ratio_for(level, made_features(seed)) or 1.0 for level in ("fast", "balanced", "high")]
        assert ratios == sorted(ratios)
    assert found.ratio_for("fast", made_features(1)) is not None


def test_noise_costs_and_a_promise_that_cannot_be_kept_is_not_made() -> None:
    calm, wild = made(noise=0.1).margins["fast"], made(noise=1.0).margins["fast"]
    assert calm is not None
    assert wild is None or wild > calm
    hopeless = made(scale=1e4)
    assert all(hopeless.ratio_for(level, made_features(1)) is None for level in BOUNDS)


def test_too_few_pairs_show_nothing() -> None:
    with pytest.raises(ConfigError, match="44 pairs of prompts are too few: 45 are needed"):
        made(44)


def test_a_calibration_comes_back_as_it_was(tmp_path: Path) -> None:
    found = made(60)
    path = tmp_path / "deep" / "one.json"
    write_calibration(found, path)
    again = calibration_files.read_calibration(path)
    assert again == found == calibration_files.read_calibration(str(path))
    assert again.name == found.name != made(61).name
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1}', "[1]", "\udcff"])
def test_what_is_no_calibration_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match="is not a calibration"):
        calibration_files.read_calibration(path)


def test_what_was_measured_at_other_ratios_or_is_no_number_is_refused() -> None:
    known = observations(60)
    known[7] = known[7].model_copy(update={"kl": known[7].kl[:4], "seconds": known[7].seconds[:4]})
    with pytest.raises(ConfigError, match="7 was measured at other ratios"):
        fit_calibration(known, PARTS, "made up", RATIOS)
    known[7] = known[8].model_copy(update={"kl": [math.nan] * len(known[8].kl)})
    with pytest.raises(ConfigError, match="of 8 is not a number"):
        fit_calibration(known, PARTS, "made up", RATIOS)


def test_margins_chosen_by_another_forecast_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    text = made(60).to_json()
    assert '"format": 13' in text
    path.write_text(text.replace('"format": 13', '"format": 7'))
    with pytest.raises(ConfigError, match="Make it again"):
        calibration_files.read_calibration(path)


def _older(found: Calibration, version: int) -> str:
    """The file that an earlier version would have written: without chains, and in format 8 with other names."""
    data = json.loads(found.to_json()) | {"format": version}
    data["spread"] = data["spread"]["lossless"]  # of all calls
    del data["account_margin"]
    for item in data["observations"]:
        for name in ("ratios", "chain", "turn", "level", "served_kl"):
            del item[name]
        if version == 8:
            names = {"suffix": "window", "moved": "exact", "mismatch": "estranged"}
            item["situation"] = {names.get(name, name): value for name, value in item.pop("features").items()}
    return json.dumps(data)


@pytest.mark.parametrize("version", [8, 9])
def test_a_calibration_of_an_earlier_format_is_read(tmp_path: Path, version: int) -> None:
    path, now = tmp_path / "old.json", made(60)
    path.write_text(_older(now, version))
    found = calibration_files.read_calibration(path)
    assert found.account_margin == Calibration.model_fields["account_margin"].default
    of_all = UsualError(lossless=now.spread.lossless, approximate=now.spread.lossless)
    assert found == now.model_copy(update={"account_margin": found.account_margin, "spread": of_all})


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_calibration(made(60), tmp_path / "file" / "one.json")


# --- the governor ---


def test_a_calibrated_level_takes_its_ratio_and_says_by_what() -> None:
    found, plan = made(), plan_of(1000)
    decision = decided(plan, ReusePolicy(level="fast"), 980, calibration=found)
    seen = plan_features(plan, Goal(ReusePolicy()), 980)
    assert seen is not None
    assert decision.budget is not None
    assert (decision.budget.ratio, decision.budget.fill) == (found.ratio_for("fast", seen), True)
    assert decision.calibration == found.name
    assert decision.expected_kl is not None
    assert decision.expected_kl < BOUNDS["fast"].kl


def test_what_is_not_expected_to_keep_the_promise_is_computed() -> None:
    decision = decided(plan_of(1000), ReusePolicy(level="balanced"), 980, calibration=made(scale=1e4))
    assert decision.budget is None
    assert decision.bypassed
    assert "not expected to keep" in decision.reason


def test_of_a_prompt_much_of_which_differs_more_is_computed_before_reuse_is_given_up() -> None:
    found = made(scale=2.0)
    ratios = {
        new: found.ratio_for(
            "balanced", made_features(3, tokens=1000, suffix=1000, new=new, must=new + 20, moved=980 - new, fuzzy=0)
        )
        for new in (60, 300)
    }
    assert ratios[60] is None, "the same words in another order: what half of it leaves open the rest leaves open"
    assert ratios[300] is not None
    assert 0.5 < ratios[300] < 1


def test_where_too_little_is_left_to_reuse_all_is_computed() -> None:
    plan = made_features(3, tokens=2000, suffix=2000, must=1700, worth=1800, moved=280, new=1680, fuzzy=0)
    assert made(scale=1e-6).ratio_for("fast", plan) is None


@pytest.mark.parametrize("plan", [plan_of(500, fuzzy=600), plan_of(500, new=600)], ids=["fuzzy", "new"])
def test_what_is_unlike_all_that_was_measured_is_computed(plan: ReusePlan) -> None:
    decision = decided(plan, ReusePolicy(level="fast"), len(plan) - 20, calibration=made())
    assert decision.budget is None
    assert "too different: share" in decision.reason


def test_what_does_not_pay_is_computed() -> None:
    found = made()
    slow = found.model_copy(update={"cost": CostModel(fixed=60.0, row=1e-3, pair=0.0, laid=0.0)})
    decision = decided(plan_of(1000), ReusePolicy(level="fast"), 980, calibration=slow)
    assert decision.budget is None
    assert "would take longer" in decision.reason


def test_times_of_another_kind_of_device_decide_nothing() -> None:
    found = made()
    slow = found.model_copy(update={"cost": CostModel(fixed=60.0, row=1e-3, pair=0.0, laid=0.0, device="cuda")})
    assert decided(plan_of(1000), ReusePolicy(level="fast"), 980, calibration=slow).budget is not None
    there = decide(
        plan_of(1000),
        Goal(ReusePolicy(level="fast")),
        980,
        layers=Layers(4, device="cuda"),
        calibration=slow,
    )
    assert there.budget is None
    assert "would take longer" in there.reason


def test_a_prefix_is_laid_either_way_and_counts_for_neither() -> None:
    cost = CostModel(fixed=0.0, row=1.0, pair=0.0, laid=0.5)
    calibration = made(60).model_copy(update={"cost": cost})
    plan = made_features(1, tokens=1000, suffix=100, must=40, worth=40)
    assert calibration.pays(plan, 0.04), "40 rows and 60 laid are less than 100 rows"
    assert not calibration.pays(replace(plan, must=100), 0.04)


@pytest.mark.parametrize(
    "policy",
    [
        ReusePolicy(level="fast", matching="runs"),
        ReusePolicy(level="fast", halo=0),
        ReusePolicy(level="fast", compress=Retention()),
    ],
    ids=["matching", "halo", "retention"],
)
def test_another_method_is_not_what_was_calibrated(policy: ReusePolicy) -> None:
    decision = decided(plan_of(1000), policy, 980, calibration=made())
    assert decision.calibration == UNCALIBRATED
    assert "another method" in decision.reason
    uncalibrated = decided(plan_of(1000), policy, 980)
    assert replace(uncalibrated, reason=decision.reason) == decision


def test_a_fixed_ratio_needs_no_calibration() -> None:
    decision = decided(plan_of(1000), ReusePolicy(recompute_ratio=0.2), 980, calibration=made())
    assert decision.calibration is None
    assert decision.budget is not None
    assert decision.budget.ratio == 0.2


def test_a_level_with_a_fixed_ratio_promises_nothing_but_has_the_levels_plan() -> None:
    level, both, ratio = (
        Goal(ReusePolicy(level="high")),
        Goal(ReusePolicy(level="high", recompute_ratio=0.1)),
        Goal(ReusePolicy(recompute_ratio=0.1)),
    )
    assert level.promised
    assert not both.promised
    assert Limits.of(both) == Limits.of(level)
    assert math.isinf(ratio.bound)


def test_a_calibration_without_chains_adds_what_approximate_rows_inherit() -> None:
    calibration = made()
    lossless = made_features(3)
    drawing = [replace(lossless, approximate=lossless.moved, inherited=account) for account in (0.01, 0.04)]
    expected = [calibration.expected_kl(features, 0.2) for features in (lossless, *drawing)]
    assert expected == sorted(expected)
    assert expected[0] < expected[1] < expected[2] < expected[0] + 0.04, (
        "an account is an upper quantile, a forecast a median"
    )
    assert calibration.expected_kl(drawing[1], 0.5) < expected[2], "computed rows inherit nothing"
    accounts = [calibration.account(features, 0.2) for features in (lossless, *drawing)]
    assert all(account > kl for account, kl in zip(accounts, expected, strict=True))
    ratios = [calibration.ratio_for("balanced", features) or 1.0 for features in (lossless, *drawing)]
    assert ratios == sorted(ratios)


def test_what_rows_inherit_beyond_all_that_was_measured_counts_in_full() -> None:
    """The forecast clips its features, so without that an account of 5 nats would look like the largest measured."""
    items = [
        item.model_copy(update={"features": replace(item.features, inherited=0.1 * (number % 2), approximate=200)})
        for number, item in enumerate(observations(60))
    ]
    plan = made_features(5, approximate=200)
    for found in (made(60), fit_calibration(items, PARTS, "made up", RATIOS)):
        nats = [found.account(replace(plan, inherited=inherited), 0.2) for inherited in (0.1, 0.3, 5.0, math.inf)]
        assert nats == sorted(nats)
        assert nats[2] > 3
        assert math.isinf(nats[3])


@pytest.mark.parametrize("calibration", [made(60), None], ids=["calibrated", "not calibrated"])
@pytest.mark.parametrize("policy", [ReusePolicy(level="fast"), ReusePolicy(recompute_ratio=0.3)])
def test_rows_that_stay_keep_their_account_however_long_the_prompt_becomes(
    calibration: Calibration | None, policy: ReusePolicy
) -> None:
    plan = plan_of(3000)
    plan.source[:2000] = Source.PREFIX
    plan = replace(plan, account=np.where(np.arange(3000) < 30, 0.12, 0.0))
    decision = decided(plan, policy, 2980, calibration=calibration)
    assert decision.budget is not None
    assert decision.account >= 0.12
    assert decided(replace(plan, account=None), policy, 2980, calibration=calibration).account < 0.12


def test_rows_that_are_computed_in_any_case_leave_no_account() -> None:
    plan = replace(plan_of(3000), account=np.where(np.arange(3000) >= 2990, 0.12, 0.0))
    features = plan_features(plan, Goal(ReusePolicy(level="fast")), 2980)
    assert features is not None
    assert features.inherited > 0
    assert features.kept == 0


@pytest.mark.parametrize("calibration", [made(60), None], ids=["calibrated", "not calibrated"])
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_rows_of_which_nothing_is_known_leave_a_fixed_ratio_without_a_forecast(
    calibration: Calibration | None, ratio: float
) -> None:
    account = np.where(np.arange(1000) < 300, math.inf, 0.0)
    plan = replace(plan_of(1000), account=account)
    decision = decided(plan, ReusePolicy(recompute_ratio=ratio), 980, calibration=calibration)
    assert decision.budget is not None
    assert decision.expected_kl is None
    assert math.isinf(decision.account)


@pytest.mark.parametrize(
    "observations", ["", ', "observations": null', ', "observations": [3]', ', "observations": [{}]']
)
@pytest.mark.parametrize("version", [8, 10, 12, 13])
def test_a_damaged_calibration_of_any_format_is_told_as_one(version: int, observations: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(f'{{"format": {version}{observations}}}')
    with pytest.raises(ConfigError, match="is not a calibration"):
        read_calibration(path)


@pytest.mark.parametrize(("account", "named"), [(0.01, UNCALIBRATED), (None, None)])
def test_who_let_an_approximate_prefix_serve_is_told(account: float | None, named: str | None) -> None:
    plan = ReusePlan.empty(100, similarity=1.0)
    plan.serve(0, 90, Source.PREFIX, 0, 0)
    plan = replace(plan, account=None if account is None else np.where(np.arange(100) < 90, account, 0.0))
    assert decided(plan, ReusePolicy(level="balanced"), 90).calibration == named
    assert decided(plan, ReusePolicy(recompute_ratio=0.1), 90).calibration is None
