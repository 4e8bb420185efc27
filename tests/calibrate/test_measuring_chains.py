"""Chains are measured under the policy itself, and the chains of several runs are put together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_up_calibration import PARTS, chains_of, made, made_features, observations
from semshare_core import SemShareEngine
from semshare_core.budget.calibration import RATIOS, choices
from semshare_core.calibrate import chains, rounds
from semshare_core.calibrate.chains import Chain
from semshare_core.calibrate.fitting import fit_calibration, folds, promised
from semshare_core.calibrate.journal import Journal
from semshare_core.calibrate.measuring import pair_digest
from semshare_core.calibrate.measuring_chains import measure_chain, measure_chains, thrifty_ratios
from semshare_core.calibrate.prompts import default_pairs
from semshare_core.calibrate.risk import beyond, margin_for
from semshare_core.calibrate.rounds import Part, earlier_observations, measure_all, measure_part, merged, missing
from semshare_core.cli.main import main
from semshare_core.errors import ConfigError
from semshare_core.quality.calibration_files import identity, read_calibration, write_calibration
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def chain(kind: str = "clock", **changes: object) -> Chain:
    return replace(Chain(f"{kind}-test", kind, None, 0.25, 3), **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny tokenizer spells most words letter by letter."""
    for name in ("_FIRST_WORDS", "_LAST_WORDS", "_LONG"):
        monkeypatch.setattr(chains, name, (90, 100))


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    found = fit_calibration(observations(60), identity(model, tokenizer), "made up", RATIOS)
    return SemShareEngine(model, tokenizer, calibration=found)


def test_each_turn_but_the_first_is_measured_on_what_the_turns_before_left(engine: SemShareEngine) -> None:
    told: list[str] = []
    found = measure_chain(engine, chain(), told.append)
    assert [item.turn for item in found] == [2, 3], told
    assert {(item.chain, item.kind, item.level) for item in found} == {("clock-test", "clock", "")}
    assert all(len(item.ratios) == len(item.kl) == len(item.seconds) for item in found)
    assert all(item.served_kl == item.kl[item.ratios.index(0.25)] for item in found), "served at that ratio"
    first, second = (item.features for item in found)
    assert (first.approximate, first.inherited) == (0, 0)
    assert second.approximate > 0
    assert second.inherited > 0
    assert not engine.pool.stats(namespace="calibration").entries


def test_a_level_serves_its_chain(engine: SemShareEngine) -> None:
    found = measure_chain(engine, chain(level="fast", ratio=None), lambda _: None)
    assert {item.level for item in found} == {"fast"}
    assert all(item.served_kl is not None for item in found)


def test_a_chain_is_measured_once_and_kept_as_a_whole(engine: SemShareEngine, tmp_path: Path) -> None:
    assert engine.calibration is not None
    journal = Journal(tmp_path / "one.jsonl", engine.calibration.fingerprint)
    told: list[str] = []
    first = measure_chains(engine, [chain()], told.append, journal=journal)
    again = measure_chains(engine, [chain(), chain("tools")], told.append, journal=journal)
    assert again[: len(first)] == first
    assert journal.read() == again
    assert "2 of 3 turns measured" in told[0]


def test_a_turn_measures_few_ratios_and_four_turns_all() -> None:
    plan = made_features(1, tokens=2000, suffix=1990, moved=1900, must=40, worth=60)
    offered = choices(plan)
    several = [thrifty_ratios(plan, turn) for turn in range(4)]
    assert all(ratios[0] == offered[0] and ratios == sorted(ratios) for ratios in several)
    assert set(offered) == {ratio for ratios in several for ratio in ratios}
    assert max(map(len, several)) <= 3
    few = {ratio for turn in range(4) for ratio in thrifty_ratios(replace(plan, must=190), turn)}
    assert few == set(offered) - {0.065, 0.085}, "which compute the same rows as 0.05"
    assert len(thrifty_ratios(replace(plan, suffix=50, moved=0, must=50, worth=50), 1)) == 1


def test_a_chain_is_in_one_fold() -> None:
    items = [*observations(25), *chains_of(30, turns=5)]
    fold = folds([item.unit for item in items])
    turns = fold[25:].reshape(30, 5)
    assert (turns == turns[:, :1]).all()
    assert set(turns[:, 0]) == set(range(10))
    assert fold[:25].tolist() == [number % 10 for number in range(25)], "pairs as ever"


def test_chains_at_a_fixed_ratio_are_not_what_a_level_promises() -> None:
    items = [*observations(60), *chains_of(6, turns=4), *chains_of(5, turns=4, level="")]
    assert promised(items).tolist() == list(range(60 + 24))


def test_calls_of_one_chain_prove_less_than_as_many_pairs() -> None:
    rng = np.random.default_rng(0)
    forecast = np.tile(np.linspace(0, -6, 61), (420, 1))
    # a chain's turns err alike
    measured = forecast + (np.repeat(rng.normal(0, 0.7, 60), 7) + rng.normal(0, 0.7, 420))[:, None]
    kinds, usual = ["one"] * 420, np.ones(420)
    alone = margin_for(forecast, usual, measured, -1.0, 0.05, kinds)
    chained = margin_for(forecast, usual, measured, -1.0, 0.05, kinds, np.repeat(np.arange(60), 7))
    assert alone is not None
    assert chained is None or chained > alone


def test_between_measured_ratios_the_next_smaller_one_counts() -> None:
    measured = np.array([[0.3, np.nan, 0.1, np.nan]] * 4)
    assert beyond(measured, np.array([0, 1, 2, 3]), 0.2).tolist() == [True, True, False, False]


def test_the_account_lies_above_nine_of_ten_unseen_calls() -> None:
    found = made(90, noise=0.8)
    below = [item.kl[0] < found.account(item.features, RATIOS[0]) for item in observations(90, noise=0.8)]
    assert 0.85 < sum(below) / 90 < 0.99


# --- several runs ---


def test_parts_share_the_work() -> None:
    pairs, several = list(range(7)), list(range(5))
    parts = [Part.parse(text) for text in ("1/2", "2/2")]
    assert [part.of_these(pairs) for part in parts] == [[0, 2, 4, 6], [1, 3, 5]]
    assert sorted(item for part in parts for item in part.of_these(several)) == several


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "a/b", "1/2/3"])
def test_what_is_no_part_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="the first of two is 1/2"):
        Part.parse(text)


def test_calibrations_and_journals_are_put_together(tmp_path: Path) -> None:
    base, journal = tmp_path / "base.json", Journal(tmp_path / "part.jsonl", PARTS)
    write_calibration(made(60), base)
    journal.append(chains_of(3, turns=4))
    journal.append(observations(2))
    found, first = earlier_observations([base, journal.path], PARTS)
    assert found == [*observations(60), *chains_of(3, turns=4)]
    assert first == made(60)
    with pytest.raises(ConfigError, match="another model"):
        earlier_observations([base], PARTS | {"dtype": "bfloat16"})
    with pytest.raises(ConfigError, match=r"was measured on cpu.*times say nothing of cuda"):
        earlier_observations([base], PARTS, "cuda")
    assert merged(found, found) == found


def test_known_pairs_are_not_measured_again() -> None:
    pairs = default_pairs(4)
    known = [observations(1)[0].model_copy(update={"prompts": pair_digest(pairs[2])})]
    assert missing(pairs, known) == [*pairs[:2], pairs[3]]


def test_chains_need_a_calibration_to_serve_them(tmp_path: Path, engine: SemShareEngine) -> None:
    journal = Journal(tmp_path / "one.jsonl", PARTS)
    with pytest.raises(ConfigError, match="--extend CALIBRATION"):
        measure_part(engine, Part(1, 2), [], 4, None, journal, lambda _: None)


def test_each_round_of_chains_is_served_under_the_fit_so_far(
    engine: SemShareEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.calibration is not None
    drawn: list[tuple[int, int]] = []

    def draw(count: int, seed: int, number: int) -> list[Chain]:
        drawn.append((seed, number))
        return [chain(("clock", "tools")[number - 1], turns=2)]

    monkeypatch.setattr(rounds, "draw_chains", draw)
    parts, told = engine.calibration.fingerprint, list[str]()
    journal = Journal(tmp_path / "one.jsonl", parts)
    made = measure_all(engine, [], 1, observations(60), journal, told.append, fingerprint=parts, source="these", seed=3)
    assert drawn == [(3, 1), (3, 2)]
    assert [item.chain for item in made.observations[60:]] == ["clock-test", "tools-test"]
    assert made.prompts == "60 pairs of these and 2 chains"
    names = [line.split()[-1] for line in told if line.startswith("round ") and "under calibration" in line]
    assert len(names) == 2
    assert len({*names, made.name}) == 3, "each fit has seen more"
    again = measure_all(
        engine, [], 1, observations(60), journal, told.append, fingerprint=parts, source="these", seed=3
    )
    assert again == made, "a run that was broken off goes on with what it had measured"


def test_the_command_measures_a_part_and_keeps_its_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounds, "draw_chains", lambda count, seed: [chain(turns=2), chain("tools", turns=2)])
    model, tokenizer, folder = tiny_model("llama"), tiny_tokenizer(), tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parts, base = identity(model, tokenizer), tmp_path / "base.json"
    write_calibration(fit_calibration(observations(60), parts, "made up", RATIOS), base)
    asked = ["calibrate", str(folder), "--extend", str(base), "--pairs", "0", "--device", "cpu"]
    for part in ("1/2", "2/2"):
        with pytest.raises(SystemExit) as ended:
            main([*asked, "--chains", "2", "--part", part, "--out", str(tmp_path / f"{part[0]}.json")])
        assert not ended.value.code, capsys.readouterr().out
    journals = [tmp_path / f"{number}.observations.jsonl" for number in (1, 2)]
    extended = [option for path in journals for option in ("--extend", str(path))]
    with pytest.raises(SystemExit) as ended:
        main([*asked, *extended, "--chains", "0", "--out", str(tmp_path / "new.json")])
    told = capsys.readouterr().out
    assert not ended.value.code, told
    found = read_calibration(tmp_path / "new.json")
    assert {item.chain for item in found.observations} == {"", "clock-test", "tools-test"}
    assert found.prompts == "60 pairs of the built-in prompts and 2 chains"
