"""Levels are bounds: what is forecast, how large a margin keeps the promise, and what a calibrated level chooses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.command.main import main
from semshare_core.config import Retention
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.quality import calibrating, calibration, calibrations
from semshare_core.quality.bounds import BOUNDS
from semshare_core.quality.calibrating import observe, observe_all
from semshare_core.quality.calibration import RATIOS, Calibration, Observation
from semshare_core.quality.calibration_prompts import CalibrationPair, default_pairs, read_pairs
from semshare_core.quality.calibrations import calibration_file, find_calibration, identity, write_calibration
from semshare_core.quality.cost import CostModel
from semshare_core.quality.forecast import Forecast, log_kl
from semshare_core.quality.governor import UNCALIBRATED, decide, situation_of
from semshare_core.quality.risk import RISK, binomial_tail, chosen, margin_for
from semshare_core.quality.situation import FEATURES, Situation
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = {"architecture": "a", "config": "b", "weights": "c", "tokenizer": "d", "dtype": "float32"}


def situation(seed: int, **changes: float) -> Situation:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(300, 3000))
    fuzzy, new = int(0.3 * n * rng.random()), int(0.1 * n * rng.random())
    made = Situation(
        tokens=n,
        window=n - 10,
        must=new + 20,
        worth=new + 20 + 2 * fuzzy,
        exact=n - 30 - fuzzy - new,
        fuzzy=fuzzy,
        new=new,
        runs=fuzzy // 3,
        seams=int(rng.integers(0, 9)),
        question=20,
        references=int(rng.integers(1, 5)),
        similarity=float(rng.uniform(0.9, 1)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def observations(count: int, noise: float = 0.3, scale: float = 0.2) -> list[Observation]:
    """Calls whose KL falls with the ratio, and with noise that nothing known beforehand explains."""
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        plan = situation(number)
        factor = float(np.exp(rng.normal(0, noise)))
        made.append(
            Observation(
                id=str(number),
                prompts=str(number),
                kind="ab"[number % 2],
                situation=asdict(plan),
                kl=[scale * factor * (1 - ratio) ** 4 for ratio in RATIOS],
                seconds=[0.02 + 2e-3 * plan.computed(ratio) + 1e-5 * plan.tokens for ratio in RATIOS],
                full_seconds=2e-3 * plan.tokens,
            )
        )
    return made


def made(count: int = 120, noise: float = 0.3, scale: float = 0.2) -> Calibration:
    return Calibration.of(observations(count, noise, scale), PARTS, "made up", RATIOS)


def plan_of(exact: int, fuzzy: int = 0, new: int = 0) -> ReusePlan:
    n = exact + fuzzy + new
    source = np.repeat([Source.EXACT, Source.FUZZY, Source.NEW], [exact, fuzzy, new]).astype(np.int8)
    served = source != Source.NEW
    position = np.where(served, np.arange(n) + 50, -1)
    return ReusePlan(source, np.where(served, 0, -1), position, ("a",), similarity=0.95)


# --- the forecast --------------------------------------------------------------------------------------------------


def test_a_forecast_finds_what_the_kl_depends_on() -> None:
    features = np.stack([situation(seed).features(0.2) for seed in range(200)])
    kl = np.exp(2 * features[:, 6] - 3)  # the share served fuzzily alone
    found = Forecast.fit(features, kl).log_kl(features)
    assert np.abs(found - log_kl(kl)).mean() < 0.05


def test_a_forecast_does_not_go_beyond_what_was_seen() -> None:
    features = np.stack([situation(seed).features(0.2) for seed in range(50)])
    fitted = Forecast.fit(features, np.exp(features[:, 2] - 8))
    highest = features.max(axis=0)
    assert fitted.log_kl(highest * 10) == pytest.approx(fitted.log_kl(np.maximum(highest, highest * 10)))
    assert fitted.log_kl(np.full(len(FEATURES), 1e9)) == pytest.approx(fitted.log_kl(highest))


def test_features_are_named_and_what_must_be_computed_counts_as_computed() -> None:
    plan = situation(3, must=200)
    assert len(plan.features(0.1)) == len(FEATURES)
    assert plan.computed(0.0) == 200
    assert plan.computed(1.0) == plan.window
    assert plan.features(0.0) == pytest.approx(plan.features(200 / plan.tokens))


# --- the margin ----------------------------------------------------------------------------------------------------


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
    measured = forecast + rng.normal(0, noise, (calls, 1))
    limit = float(log_kl(0.05))
    margin = margin_for(forecast, measured, limit, 0.05, ["one"] * calls)
    if margin is None:
        return
    index = chosen(forecast, limit, margin)
    taken = index >= 0
    broken = int((taken & (measured[np.arange(calls), np.maximum(index, 0)] > limit)).sum())
    assert binomial_tail(broken, calls, 0.05) <= RISK


def test_the_promise_holds_for_calls_that_calibration_never_saw() -> None:
    """Over many draws of calibration prompts, margins that fail are about as rare as promised."""
    limit, failed = 0.0, 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        forecast = np.sort(rng.normal(0, 1, (2120, 6)), axis=1)[:, ::-1]
        measured = forecast + rng.normal(0, 1, (2120, 1))
        margin = margin_for(forecast[:120], measured[:120], limit, 0.05, ["one"] * 120)
        assert margin is not None
        index = chosen(forecast[120:], limit, margin)
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
    together = margin_for(forecast[:], measured, -1.0, 0.06, kinds)
    apart = margin_for(forecast[:], measured, -1.0, 0.06, hard)
    assert together is not None
    assert apart is None or apart > together


def test_the_first_ratio_within_the_bound_is_chosen() -> None:
    forecast = np.array([[0.0, -1.0, -2.0], [5.0, 5.0, 5.0]])
    assert chosen(forecast, -0.5, 0.0).tolist() == [1, -1]
    assert chosen(forecast, -0.5, 1.0).tolist() == [2, -1]


# --- the time ------------------------------------------------------------------------------------------------------


def test_a_cost_model_finds_what_made_the_times() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.uniform(200, 6000, 60)
    true = CostModel(fixed=0.05, row=2e-3, pair=3e-7, laid=1e-5)
    rows = np.outer(tokens, RATIOS)
    seconds = np.array([[true.reuse(int(n), int(k)) for k in line] for n, line in zip(tokens, rows, strict=True)])
    found = CostModel.fit(np.floor(tokens), np.array([true.full(int(n)) for n in tokens]), np.floor(rows), seconds)
    assert found.reuse(3000, 300) == pytest.approx(true.reuse(3000, 300), rel=0.02)
    assert found.full(3000) == pytest.approx(true.full(3000), rel=0.02)


def test_no_coefficient_is_below_zero() -> None:
    tokens = np.array([100.0, 200.0, 300.0])
    found = CostModel.fit(tokens, 1e-3 * tokens, np.outer(tokens, (0.1, 0.5)), np.outer(1e-4 * tokens, (3.0, 1.0)))
    assert min(found.model_dump().values()) >= 0


# --- a calibration -------------------------------------------------------------------------------------------------


def test_a_stricter_level_spends_no_less() -> None:
    found = made()
    for seed in range(40):
        ratios = [found.ratio_for(level, situation(seed)) or 1.0 for level in ("fast", "balanced", "high")]
        assert ratios == sorted(ratios)
    assert found.ratio_for("fast", situation(1)) is not None


def test_noise_costs_and_a_promise_that_cannot_be_kept_is_not_made() -> None:
    calm, wild = made(noise=0.1).margins["fast"], made(noise=1.0).margins["fast"]
    assert calm is not None
    assert wild is None or wild > calm
    hopeless = made(scale=1e4)
    assert all(hopeless.ratio_for(level, situation(1)) is None for level in BOUNDS)


def test_too_few_pairs_show_nothing() -> None:
    with pytest.raises(ConfigError, match="it takes 45 to show"):
        made(44)


def test_a_calibration_comes_back_as_it_was(tmp_path: Path) -> None:
    found = made(60)
    path = tmp_path / "deep" / "one.json"
    write_calibration(found, path)
    again = calibrations.read_calibration(path)
    assert again == found
    assert again.name == found.name != made(61).name
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]", "\udcff"])
def test_what_is_no_calibration_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match="is no calibration"):
        calibrations.read_calibration(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_calibration(made(60), tmp_path / "file" / "one.json")


# --- the governor --------------------------------------------------------------------------------------------------


def test_a_calibrated_level_takes_its_ratio_and_says_by_what() -> None:
    found, plan = made(), plan_of(1000)
    decision = decide(plan, ReusePolicy(level="fast"), 980, calibration=found)
    seen = situation_of(plan, ReusePolicy(), 980)
    assert seen is not None
    assert decision.budget is not None
    assert (decision.budget.ratio, decision.budget.fill) == (found.ratio_for("fast", seen), True)
    assert decision.calibration == found.name
    assert decision.expected_kl is not None
    assert decision.expected_kl < BOUNDS["fast"].kl


def test_what_is_not_expected_to_keep_the_promise_is_computed() -> None:
    decision = decide(plan_of(1000), ReusePolicy(level="balanced"), 980, calibration=made(scale=1e4))
    assert decision.budget is None
    assert decision.bypassed
    assert "not expected to keep" in decision.reason


@pytest.mark.parametrize("plan", [plan_of(500, fuzzy=600), plan_of(500, new=600)], ids=["fuzzy", "new"])
def test_what_is_unlike_all_that_was_measured_is_computed(plan: ReusePlan) -> None:
    decision = decide(plan, ReusePolicy(level="fast"), len(plan) - 20, calibration=made())
    assert decision.budget is None
    assert "too different: share" in decision.reason


def test_what_does_not_pay_is_computed() -> None:
    found = made()
    slow = found.model_copy(update={"cost": CostModel(fixed=60.0, row=1e-3, pair=0.0, laid=0.0)})
    decision = decide(plan_of(1000), ReusePolicy(level="fast"), 980, calibration=slow)
    assert decision.budget is None
    assert "would take longer" in decision.reason


@pytest.mark.parametrize(
    "policy",
    [
        ReusePolicy(level="fast", matching="runs"),
        ReusePolicy(level="fast", halo=0),
        ReusePolicy(level="fast", retention=Retention()),
    ],
    ids=["matching", "halo", "retention"],
)
def test_another_method_is_not_what_was_calibrated(policy: ReusePolicy) -> None:
    decision = decide(plan_of(1000), policy, 980, calibration=made())
    assert decision.calibration == UNCALIBRATED
    assert decide(plan_of(1000), policy, 980) == decision


def test_a_fixed_ratio_needs_no_calibration() -> None:
    decision = decide(plan_of(1000), ReusePolicy(recompute_ratio=0.2), 980, calibration=made())
    assert decision.calibration is None
    assert decision.budget is not None
    assert decision.budget.ratio == 0.2


# --- measuring -----------------------------------------------------------------------------------------------------

TEXT = "\n\n".join(PARAGRAPHS * 2)


def tiny_engine(**settings: object) -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer(), **settings)  # type: ignore[arg-type]


def pair(number: int, target: str | None = None) -> CalibrationPair:
    turn = 1 + number % 2
    turned = PARAGRAPHS[turn:] + PARAGRAPHS[:turn]
    text = "\n\n".join(turned * 2) if target is None else target
    return CalibrationPair(f"pair-{number}", (f"{TEXT} Who?",), f"{text} What is number {number}?", "turned")


def test_a_pair_is_measured_beside_the_full_prefill_and_leaves_nothing_behind() -> None:
    engine = tiny_engine()
    engine.warm(["Something of somebody else's that must stay where it is, whatever happens here, for it is theirs."])
    before = engine.pool.stats().entries
    found = observe(engine, pair(1))
    assert found is not None
    assert len(found.kl) == len(found.seconds) == len(RATIOS)
    assert found.kl[0] > 0
    assert min(found.kl) >= -1e-6
    assert found.plan.tokens == len(engine.token_ids(pair(1).target))
    assert engine.pool.stats().entries == before


def test_everything_computed_is_the_full_prefill() -> None:
    found = observe(tiny_engine(), pair(2), ratios=(1.0,))
    assert found is not None
    assert found.kl[0] == pytest.approx(0, abs=1e-5)


def test_what_cannot_be_measured_is_told_of_and_left_out() -> None:
    told: list[str] = []
    same = pair(3, f"{TEXT} Who?")
    same = replace(same, target=same.references[0])
    long = pair(4, "word " * 4000)
    found = observe_all(tiny_engine(), [same, long, pair(5)], told.append)
    assert [item.id for item in found] == ["pair-5"]
    assert "nothing of it could be reused" in told[0]
    assert "left out" in told[1]


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "made" / "journal.jsonl"
    engine = tiny_engine()
    first = observe_all(engine, [pair(0), pair(1)], lambda _: None, journal=journal)
    with journal.open("a") as file:
        file.write('{"id": "pair-2", "kl": [0.1')
    measured: list[str] = []

    def spy(engine: SemShareEngine, each: CalibrationPair) -> Observation | None:
        measured.append(each.id)
        return observe(engine, each)

    monkeypatch.setattr(calibrating, "observe", spy)
    same_name = replace(pair(1), target=pair(7).target)
    again = observe_all(engine, [pair(0), same_name, pair(2)], lambda _: None, journal=journal)
    assert measured == ["pair-1", "pair-2"], "other texts under a known name are another pair"
    assert again[0] == first[0]


# --- prompts to calibrate on ---------------------------------------------------------------------------------------


def test_built_in_pairs_are_the_same_every_time_and_of_six_kinds() -> None:
    pairs = default_pairs(36)
    assert pairs == default_pairs(36)
    assert pairs[:6] == default_pairs(6)
    assert pairs != default_pairs(36, seed=1)
    assert {each.kind for each in pairs} == {"order", "sources", "edition", "rewrite", "window", "facts"}
    assert len({each.id for each in pairs}) == 36
    words = [len(str(each.target).split()) for each in pairs if each.kind != "sources"]
    assert min(words[20:25]) > 1300 > max(words[:20]), "one round of kinds in five is long"


def test_pairs_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"reference": "a b", "target": "b a", "question": "Why?", "kind": "mine", "extra": 1},
        {"id": "two", "reference": ["x", "y"], "target": "y x"},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    assert read_pairs(path) == [
        CalibrationPair("mine-1", ("a b\n\nWhy?",), "b a\n\nWhy?", "mine"),
        CalibrationPair("two", ("x", "y"), "y x"),
    ]


@pytest.mark.parametrize("line", ["{", "[]", '{"reference": "a"}', '{"reference": 3, "target": "a"}'])
def test_a_line_that_is_no_pair_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"reference": "a", "target": "b"}\n' + line)
    with pytest.raises(ConfigError, match="line 2"):
        read_pairs(path)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pairs(tmp_path / "nowhere.jsonl")


# --- where calibrations are kept -----------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_engine_finds_its_models_calibration_and_no_others(own_cache: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert find_calibration(model, tokenizer) is None
    parts = identity(model, tokenizer)
    found = Calibration.of(observations(60), parts, "made up", RATIOS)
    write_calibration(found, calibration_file(parts))
    assert tiny_engine().calibration == found
    assert tiny_engine(calibration=None).calibration is None
    assert SemShareEngine(tiny_model("qwen2"), tokenizer).calibration is None


@pytest.mark.real
def test_the_demo_model_comes_calibrated(
    own_cache: Path, demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> None:
    found = find_calibration(*demo)
    assert found is not None
    assert found.fingerprint == identity(*demo)
    assert len(found.observations) >= 120
    assert all(margin is not None for margin in found.margins.values())


def test_a_damaged_calibration_is_warned_of_and_not_used(own_cache: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    path = calibration_file(identity(model, tokenizer))
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.warns(QualityWarning, match="counts as uncalibrated"):
        assert find_calibration(model, tokenizer) is None


def test_reports_name_what_decided(own_cache: Path) -> None:
    engine = tiny_engine(calibration=None)
    engine.warm([f"{TEXT} Who?"])
    prompt = pair(1).target
    reports = [engine.prefill(prompt, reuse=level, store=False).report for level in ("balanced", "exact", "off")]
    assert [report.calibration for report in reports] == [UNCALIBRATED, None, None]
    assert engine.prefill(prompt, reuse=ReusePolicy(recompute_ratio=0.5), store=False).report.calibration is None


def test_the_command_calibrates_a_model(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration, "LEAST_PAIRS", 6)
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    prompts = tmp_path / "mine.jsonl"
    rows = [{"reference": pair(n).references[0], "target": pair(n).target, "kind": "turned"} for n in range(6)]
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(folder), "--prompts", str(prompts), "--device", "cpu"])
    told = capsys.readouterr().out
    assert not ended.value.code, told
    engine = SemShareEngine.from_pretrained(str(folder), device="cpu")
    assert engine.calibration is not None
    assert engine.calibration.prompts == "6 pairs of mine.jsonl"
    assert f"Calibration {engine.calibration.name}" in told
    assert not list(own_cache.rglob("*.jsonl"))


def test_the_command_refuses_too_few_prompts(
    own_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text(json.dumps({"reference": pair(1).references[0], "target": pair(1).target}))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(folder), "--prompts", str(prompts), "--device", "cpu"])
    assert ended.value.code == 1
    assert "1 pairs of prompts could be measured" in capsys.readouterr().err
