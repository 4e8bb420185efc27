"""The comparison of two engines sees what differs, and says so where it can see nothing any more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.same_engine.cases import SCENARIOS
from benchmarks.same_engine.compare import differences
from benchmarks.same_engine.probes import ProbeError, Seen, _find, check_seen
from benchmarks.same_engine.record import Record

CASE = "levels / moved"


def made(**changes: object) -> Record:
    arrays = {"1. found: source": np.array([3, 3, 2]), "logits": np.array([0.5, 1.0])}
    values = {"report: outcome": "semantic", "report: recompute_ratio": 0.25, "report: exact_tokens": 1}
    for name, value in changes.items():
        (arrays if isinstance(value, np.ndarray) else values)[name] = value
    return Record({CASE: arrays}, {CASE: values})


def test_equal_records_do_not_differ_and_come_back_as_they_were(tmp_path: Path) -> None:
    made().save(tmp_path / "one")
    assert differences(made(), Record.load(tmp_path / "one")) == {CASE: []}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"1. found: source": np.array([3, 2, 2])}, "1 of 3 differ, first at 1: 3 -> 2"),
        ({"1. found: source": np.array([3, 3])}, "(3,) -> (2,)"),
        ({"logits": np.array([0.5, 1.0001])}, "1.0e-04 apart"),
        ({"logits": np.array([0.5, np.nan])}, "nan apart"),
        ({"computed at layer 0": np.array([1])}, "only in the new engine"),
        ({"report: outcome": "bypass"}, "'semantic' -> 'bypass'"),
        ({"report: recompute_ratio": 0.2500001}, "0.25 -> 0.2500001"),
    ],
)
def test_what_differs_is_told(changes: dict[str, object], told: str) -> None:
    [line] = differences(made(), made(**changes))[CASE]
    assert told in line


def test_a_field_that_is_gone_differs_and_one_of_another_name_does_not() -> None:
    new = made(**{"report: moved_tokens": 1, "report: account": 0.0})
    del new.values[CASE]["report: exact_tokens"]
    assert differences(made(), new) == {CASE: []}
    del new.values[CASE]["report: moved_tokens"]
    assert differences(made(), new) == {CASE: ["report: moved_tokens: is gone"]}


def test_a_case_of_one_record_alone_differs() -> None:
    assert differences(made(), Record()) == {CASE: ["only in the old record"]}


def test_a_point_to_look_at_that_is_gone_is_an_error() -> None:
    with pytest.raises(ProbeError, match="decide_nothing must be defined once in semshare_core, and is: nowhere"):
        _find("decide_nothing")
    with pytest.raises(ProbeError, match="not seen: the plan carried out, the decision, the rows computed"):
        check_seen(Seen(), {"outcome": "semantic"})


def test_forty_prompts_and_every_outcome_are_compared() -> None:
    asks = [ask for scenario in SCENARIOS for ask in scenario.asks]
    assert len(asks) >= 40
    assert {ask.outcome for ask in asks} == {"miss", "prefix", "semantic", "bypass"}
