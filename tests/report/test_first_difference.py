"""What a report says of the first difference, and where it quotes nothing."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from semshare_core import FirstDifference, ReuseReport
from semshare_integrations.statistics import ReuseLog
from semshare_integrations.statistics.recent import brief, whole_report

SECRET, OTHER = "the code is 4711", "the code is 1234"


def report() -> ReuseReport:
    found = FirstDifference(index=12, kind="number", here=SECRET, there=OTHER)
    return ReuseReport(
        outcome="miss", reason="nothing to reuse", level="balanced", prompt_tokens=40, first_difference=found
    )


def test_only_the_report_object_quotes_prompts() -> None:
    made = report()
    log = ReuseLog()
    log.add(made)
    told = [repr(made), str(made), made.summary(), made._repr_html_(), json.dumps(made.brief())]
    told += [log.summary(), log._repr_html_(), made.first_difference.summary() if made.first_difference else ""]
    for text in told:
        assert "12" in text
        assert "number" in text
        assert SECRET not in text
        assert OTHER not in text
    assert SECRET in made.model_dump_json()


def test_a_brief_report_comes_back_with_index_and_kind_and_in_this_process_with_the_quotes() -> None:
    made = report()
    told = json.loads(json.dumps(brief(made)))
    assert ReuseReport.model_validate(told).first_difference == FirstDifference(index=12, kind="number")
    assert whole_report(told) == made


def test_the_log_says_why_call_by_call() -> None:
    log = ReuseLog()
    log.add(report(), report().model_copy(update={"first_difference": None, "reason": "reuse is off"}))
    *_, first, second = log.summary().splitlines()
    assert first == "1: nothing to reuse; first difference at token 12 (number)"
    assert second == "2: reuse is off"


@pytest.mark.parametrize("wrong", [{"index": -1}, {"kind": "a whim"}, {"here": "x" * 41}])
def test_what_no_difference_can_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FirstDifference(**({"index": 0, "kind": "number"} | wrong))  # type: ignore[arg-type]
