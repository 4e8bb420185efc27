"""Why was this call not faster? Every reason that a report can carry is explained on the page of that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from semshare_core.budget.governor import Decision
from semshare_core.report.reasons import NO_REASON, Reason

ROOT = Path(__file__).parents[2]
EXPLAINED = re.findall(
    r"^\| `([^`]+)` \|",
    (ROOT / "docs" / "why.md").read_text().split("## What the reason says\n")[1].split("\n## ")[0],
    re.M,
)


def _as_pattern(reason: Reason) -> re.Pattern[str]:
    """The sentence, with anything in the place of its figures."""
    fixed = re.split(r"\{[^}]*\}", reason.value)
    return re.compile("(.+)".join(re.escape(part) for part in fixed))


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_is_explained_once(reason: Reason) -> None:
    found = [sentence for sentence in EXPLAINED if _as_pattern(reason).fullmatch(sentence)]
    assert len(found) == 1, f"docs/why.md explains {reason.value!r} {len(found)} times"


@pytest.mark.parametrize("sentence", EXPLAINED)
def test_the_page_explains_no_reason_that_is_gone(sentence: str) -> None:
    assert any(_as_pattern(reason).fullmatch(sentence) for reason in Reason), sentence


def test_the_code_has_no_reason_of_its_own() -> None:
    """Reasons come from one place: no ``Decision`` is made with a string that stands where it is made."""
    made = []
    for path in sorted((ROOT / "semshare_core").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == Decision.__name__:
                made.append(node)
                reasons = [*node.args[1:2], *(each.value for each in node.keywords if each.arg == "reason")]
                texts = [part for reason in reasons for part in ast.walk(reason) if isinstance(part, ast.JoinedStr)]
                texts += [reason for reason in reasons if isinstance(reason, ast.Constant)]
                assert not texts, (
                    f"{path.name}:{node.lineno} has a reason of its own: add it to semshare_core/report/reasons.py"
                )
    assert made


def test_a_sentence_has_the_figures_of_its_call() -> None:
    assert Reason.TOO_LITTLE_SAVED.text(saved=40, tokens=300) == "only 40 of 300 tokens would be saved"
    assert Decision(None).reason == NO_REASON == ""
    with pytest.raises(KeyError):
        Reason.TOO_LITTLE_SAVED.text(saved=40)
