"""A model is measured on pairs of prompts, and its calibration is found again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from made_up_calibration import PARTS, made, observations
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.budget.calibration import RATIOS, Observation, measured_ratios
from semshare_core.budget.governor import UNCALIBRATED
from semshare_core.budget.levels import BOUNDS
from semshare_core.calibrate import fitting, measuring
from semshare_core.calibrate.fitting import fit_calibration
from semshare_core.calibrate.journal import Journal
from semshare_core.calibrate.measuring import measure_pair, measure_pairs
from semshare_core.calibrate.prompts import CalibrationPair, default_pairs, read_pairs
from semshare_core.cli.calibrate import _table
from semshare_core.cli.main import main
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.quality.calibration_files import calibration_file, find_calibration, identity, write_calibration
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

# --- measuring ---

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
    found = measure_pair(engine, pair(1))
    assert found is not None
    assert len(found.kl) == len(found.seconds) == len(measured_ratios(found.features))
    assert found.kl[0] > 0
    assert min(found.kl) >= -1e-6
    assert found.features.tokens == len(engine.token_ids(pair(1).target))
    assert engine.pool.stats().entries == before


def test_everything_computed_is_the_full_prefill() -> None:
    found = measure_pair(tiny_engine(), pair(2), ratios=(1.0,))
    assert found is not None
    assert found.kl[0] == pytest.approx(0, abs=1e-5)


def test_what_cannot_be_measured_is_told_of_and_left_out() -> None:
    told: list[str] = []
    same = pair(3, f"{TEXT} Who?")
    same = replace(same, target=same.references[0])
    long = pair(4, "word " * 4000)
    found = measure_pairs(tiny_engine(), [same, long, pair(5)], told.append)
    assert [item.id for item in found] == ["pair-5"]
    assert "nothing of it could be reused" in told[0]
    assert "left out" in told[1]


def test_a_run_goes_on_where_it_was_broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "made" / "journal.jsonl"
    engine = tiny_engine()
    first = measure_pairs(engine, [pair(0), pair(1)], lambda _: None, journal=Journal(path, PARTS))
    with path.open("a") as file:
        file.write('{"id": "pair-2", "kl": [0.1')
    measured: list[str] = []

    def spy(engine: SemShareEngine, each: CalibrationPair) -> Observation | None:
        measured.append(each.id)
        return measure_pair(engine, each)

    monkeypatch.setattr(measuring, "measure_pair", spy)
    same_name = replace(pair(1), target=pair(7).target)
    again = measure_pairs(engine, [pair(0), same_name, pair(2)], lambda _: None, journal=Journal(path, PARTS))
    assert measured == ["pair-1", "pair-2"], "other texts under a known name are another pair"
    assert again[0] == first[0]
    assert Journal(path, PARTS).read() == [*first, *again[1:]]
    assert all(json.loads(line) for line in path.read_text().splitlines())


# --- prompts to calibrate on ---


def test_built_in_pairs_are_the_same_every_time_and_of_eight_kinds() -> None:
    pairs = default_pairs(48)
    assert pairs == default_pairs(48)
    assert pairs[:8] == default_pairs(8)
    assert pairs != default_pairs(48, seed=1)
    kinds = {"order", "sources", "edition", "rewrite", "window", "facts", "overlap", "lists"}
    assert {each.kind for each in pairs[:8]} == kinds
    assert len({each.id for each in pairs}) == 48
    words = [len(str(each.target).split()) for each in pairs if each.kind not in ("sources", "lists")]
    assert min(words[24:30]) > 1000 > max(words[:24]), "one round of kinds in five is long"


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


# --- where calibrations are kept ---


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_engine_finds_its_models_calibration_and_no_others(own_cache: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    assert find_calibration(model, tokenizer) is None
    parts = identity(model, tokenizer)
    found = fit_calibration(observations(60), parts, "made up", RATIOS)
    write_calibration(found, calibration_file(parts))
    assert tiny_engine().calibration == found
    assert tiny_engine(calibration=None).calibration is None
    assert SemShareEngine(tiny_model("qwen2"), tokenizer).calibration is None


def test_a_calibration_is_taken_by_its_own_model_only(own_cache: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    found = fit_calibration(observations(60), identity(model, tokenizer), "made up", RATIOS)
    assert tiny_engine(calibration=found).calibration is found
    with pytest.raises(ConfigError, match=rf"{found.name} belongs to another model \(Llama.*, float32\).*Qwen2"):
        SemShareEngine(tiny_model("qwen2"), tokenizer, calibration=found)
    halved = tiny_model("llama").to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"than this one \(LlamaForCausalLM, bfloat16\).*weights, dtype differ"):
        SemShareEngine(halved, tokenizer, calibration=found)


@pytest.mark.parametrize("asked", ["my.json", Path("my.json"), {"format": 7}], ids=["text", "path", "dict"])
def test_what_is_no_calibration_is_refused(asked: object) -> None:
    with pytest.raises(ConfigError, match=r"is not a calibration: .*read_calibration\(path\)"):
        tiny_engine(calibration=asked)


def test_another_models_calibration_under_this_ones_name_is_warned_of_and_not_used(own_cache: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    theirs = fit_calibration(observations(60), PARTS, "made up", RATIOS)
    write_calibration(theirs, calibration_file(identity(model, tokenizer)))
    with pytest.warns(QualityWarning, match=r"belongs to another model .*counts as uncalibrated"):
        assert find_calibration(model, tokenizer) is None


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
    monkeypatch.setattr(fitting, "LEAST_PAIRS", 6)
    folder = tmp_path / "model"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    prompts = tmp_path / "mine.jsonl"
    rows = [{"reference": pair(n).references[0], "target": pair(n).target, "kind": "turned"} for n in range(6)]
    prompts.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", str(folder), "--prompts", str(prompts), "--chains", "0", "--device", "cpu"])
    told = capsys.readouterr().out
    assert not ended.value.code, told
    engine = SemShareEngine.from_pretrained(str(folder), device="cpu")
    assert engine.calibration is not None
    assert engine.calibration.prompts == "6 pairs of mine.jsonl"
    assert f"Calibration {engine.calibration.name}" in told
    assert not list(own_cache.rglob("*.jsonl"))


@pytest.mark.parametrize("asked", ["--pairs", "--prompts"])
def test_the_command_refuses_too_few_prompts_before_it_loads_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    prompts = tmp_path / "mine.jsonl"
    prompts.write_text(44 * (json.dumps({"reference": "a b", "target": "b a"}) + "\n"))
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "no-such-model", asked, "44" if asked == "--pairs" else str(prompts)])
    assert ended.value.code == 1
    assert "44 pairs of prompts are too few" in capsys.readouterr().err


def test_the_table_tells_how_many_calls_break_that_the_forecast_has_not_seen() -> None:
    found = made(120, noise=0.6)
    *_, beyond_the_bound = _table(found).columns
    told = [float(str(cell).rstrip("%")) for cell in beyond_the_bound.cells]
    assert min(told) > 0, "by the forecast fitted to these very calls none is beyond"
    assert max(told) <= 100 * BOUNDS["fast"].share
