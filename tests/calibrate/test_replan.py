"""Earlier observations get the features of today, if their plans are still the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from semshare_core import SemShareEngine
from semshare_core.calibrate.measuring import measure_pair
from semshare_core.calibrate.prompts import CalibrationPair
from semshare_core.calibrate.replan import replan
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")


def pair(number: int) -> CalibrationPair:
    turned = PARAGRAPHS[number:] + PARAGRAPHS[:number]
    prompts = ["\n\n".join(text * 2) + " Who?" for text in (PARAGRAPHS, turned)]
    return CalibrationPair(f"pair-{number}", (prompts[0],), prompts[1], "turned")


def test_new_features_are_filled_in_and_what_was_measured_stays() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    measured = measure_pair(engine, pair(1), ratios=(0.5,))
    assert measured is not None
    before = measured.model_copy(update={"features": replace(measured.features, inherited=0.3)})  # has a default
    told: list[str] = []
    assert replan(engine, [pair(2), pair(1)], [before], told.append) == [measured]
    assert len(told) == 1
    assert engine.pool.stats().entries == 0


def test_what_would_belong_to_other_rows_is_left_out() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    measured = measure_pair(engine, pair(1), ratios=(0.5,))
    assert measured is not None
    other = measured.model_copy(update={"features": replace(measured.features, must=measured.features.must + 1)})
    told: list[str] = []
    assert replan(engine, [pair(1)], [other], told.append) == []
    assert replan(engine, [pair(2)], [measured], told.append) == []
    assert "must be measured again" in told[0]
    assert "prompts are not there" in told[1]
