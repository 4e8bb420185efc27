"""The soak finds what it looks for: it is run for seconds, whole and with faults planted."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from benchmarks.sections import soak as section
from benchmarks.sections.figure import Figure, Run
from semshare_core.model.weights import Weights
from semshare_core.pool.entries import Entries
from semshare_core.pool.entry import Entry
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "PROMPTS", 8)
    monkeypatch.setattr(section, "NEW_TOKENS", 8)
    monkeypatch.setattr(section, "KEPT", 3)


def figures(seconds: float) -> dict[str, Figure]:
    """By what they are about: wrong answers, memory, budget, threads."""
    engine: Any = SimpleNamespace(tokenizer=tiny_tokenizer())
    found = section.soak(Run(engine, print, minutes=seconds / 60))
    return dict(zip(("wrong", "memory", "over", "threads"), found, strict=True))


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    found = figures(1.5)
    assert found["wrong"].met, found["wrong"]
    assert found["over"].met, found["over"]
    assert found["threads"].met, found["threads"]
    assert found["memory"].items


def test_a_wrong_answer_and_rows_that_stay_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[tuple[Tensor, Tensor]]] = []
    remove = Entries.remove

    def keeping(self: Entries, entry: Entry) -> None:
        kept.extend(segment.rows.pairs for segment in entry.segments if segment.rows.in_memory)  # type: ignore[attr-defined]
        remove(self, entry)

    def wrong(ground: section.Ground, dice: random.Random) -> str:
        return "on purpose"

    monkeypatch.setattr(Entries, "remove", keeping)
    monkeypatch.setattr(section, "OPERATIONS", [*section.OPERATIONS, (wrong, 20)])
    found = figures(1.5)
    assert found["wrong"].met is False
    assert found["wrong"].items[0] == "wrong: on purpose"
    assert found["over"].met is False


def test_rows_of_another_adapter_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Weights, "identity", lambda self: "always the same")
    assert figures(3).pop("wrong").met is False
