"""Pairs that cannot be measured are replaced, or the run ends before it has computed anything."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semshare_core import SemShareEngine
from semshare_core.calibrate import substitutes
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.calibrate.substitutes import Substitutes, fitting_pairs, measure_enough
from semshare_core.errors import ConfigError
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS * 2)


def pair(number: int, kind: str = "order") -> CalibrationPair:
    turned = "\n\n".join([*PARAGRAPHS[number % 4 :], *PARAGRAPHS[: number % 4]] * 2)
    return CalibrationPair(f"pair-{number}", (f"{TEXT} Who?",), f"{turned} What is number {number}?", kind)


TOO_LONG = replace(pair(8), id="long", target="word " * 4000)
NOT_ALIKE = CalibrationPair("unlike", ("?" * 60,), "0123456789" * 3, "order")


@pytest.fixture
def spares(monkeypatch: pytest.MonkeyPatch) -> list[CalibrationPair]:
    """The built-in pairs of every seed, short enough for a tiny model: the first of them is too long, too."""
    made = [TOO_LONG, pair(11, "facts"), pair(14, "order"), pair(13, "order")]
    monkeypatch.setattr(substitutes, "default_pairs", lambda count, seed: made if seed == 1 else [])
    return made


def test_a_pair_that_is_too_long_is_replaced_by_one_of_its_kind(spares: list[CalibrationPair]) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    spare, told = Substitutes(engine), []
    found = fitting_pairs([pair(1), TOO_LONG, pair(2)], 3, spare, told.append)
    assert [each.id for each in found] == ["pair-1", "pair-14-spare1", "pair-2"]
    assert spare.used == 1
    [line] = told
    assert line.startswith("long: pair-14-spare1 instead: ")
    assert engine.pool.stats().entries == 0


def test_your_own_prompts_are_not_diluted_beyond_need(spares: list[CalibrationPair]) -> None:
    spare, told = Substitutes(SemShareEngine(tiny_model("llama"), tiny_tokenizer())), []
    found = fitting_pairs([pair(1), TOO_LONG, pair(2)], 2, spare, told.append)
    assert [each.id for each in found] == ["pair-1", "pair-2"]
    assert spare.used == 0
    assert told[0].startswith("long: left out: ")


def test_with_too_few_the_run_ends_before_it_begins(spares: list[CalibrationPair]) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    with pytest.raises(ConfigError, match="5 pairs of prompts are needed, and the model can read 4"):
        fitting_pairs([pair(1), *[TOO_LONG] * 4], 5, Substitutes(engine), lambda _: None)
    assert engine.pool.stats().entries == 0


def test_a_pair_that_could_reuse_nothing_is_replaced_after_its_turn(spares: list[CalibrationPair]) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    spare, told = Substitutes(engine), []
    found = measure_enough(engine, [NOT_ALIKE, pair(1)], 2, spare, told.append)
    assert [item.id for item in found] == ["pair-1", "pair-14-spare1"]
    assert "unlike: left out: nothing of it could be reused" in told


def test_without_spare_pairs_left_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(substitutes, "default_pairs", lambda count, seed: [replace(NOT_ALIKE, id="n")][: seed == 1])
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    found = measure_enough(engine, [NOT_ALIKE, pair(1)], 2, Substitutes(engine), lambda _: None)
    assert [item.id for item in found] == ["pair-1"]


def test_the_real_spare_pairs_are_other_than_the_runs_own_and_fit() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    first, second = Substitutes(engine).take("edition"), Substitutes(engine).take("edition")
    if first is None:  # a byte is a token here, and no built-in pair is that short
        assert second is None
        return
    assert first == second
    assert len(engine.token_ids(first.target)) < engine.context
