"""A model without a calibration says so: once in words, and in every report that a level decided."""

from __future__ import annotations

import warnings

import pytest

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import QualityWarning
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The river ran past the old mill and the miller's daughter counted the boats. " * 8


def told(engine: SemShareEngine, reuse: str | ReusePolicy) -> tuple[list[str], str]:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        report = engine.generate(f"Now: {TEXT}", max_new_tokens=1, reuse=reuse, store=False).report
    return [str(each.message) for each in heard if each.category is QualityWarning], report.reason


def test_a_level_without_a_calibration_is_told_once_for_each_model() -> None:
    for _ in range(2):
        engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
        engine.warm([TEXT])
        for silent in ("exact", "off", ReusePolicy(recompute_ratio=0.3)):  # no level has to choose
            assert told(engine, silent)[0] == []
        (warning,), reason = told(engine, "fast")
        assert "semshare calibrate" in warning
        assert "not calibrated" in reason
        assert told(engine, "fast") == ([], reason)
        again = SemShareEngine(engine.model, engine.tokenizer)
        again.warm([TEXT])
        assert told(again, "fast")[0] == []
