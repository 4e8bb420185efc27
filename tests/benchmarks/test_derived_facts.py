"""Documents whose unchanged text derives an answer from an edited fact."""

from __future__ import annotations

import pytest

from benchmarks.workloads.derived_facts import DISTANCES, derived_document
from benchmarks.workloads.passages import word_count

SENTENCES = [f"Sentence number {number} says nothing about any room at all." for number in range(400)]


@pytest.mark.parametrize("distance", DISTANCES)
def test_only_the_facts_differ_and_the_dependent_text_stays(distance: int) -> None:
    made = derived_document(SENTENCES, word_count, distance=distance, facts=2)
    assert len(made.questions) == 2
    old_lines = made.reference.split("\n\nAnswer the question")[0].split("\n")
    for asked in made.questions:
        new_lines = asked.prompt.split("\n\nAnswer the question")[0].split("\n")
        changed = [(old, new) for old, new in zip(old_lines, new_lines, strict=True) if old != new]
        assert len(changed) == 2
        assert any(asked.old in old and asked.gold in new for old, new in changed)
        assert asked.old not in asked.prompt
        assert asked.gold not in made.reference


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_dependent_sentence_stands_so_far_behind_its_fact(distance: int) -> None:
    [asked] = derived_document(SENTENCES, word_count, distance=distance, facts=1).questions
    assert asked.distance == pytest.approx(distance, abs=20)
    assert (asked.distance == 0) == (distance == 0)


def test_the_same_seed_gives_the_same_document() -> None:
    assert derived_document(SENTENCES, word_count, distance=0) == derived_document(SENTENCES, word_count, distance=0)
    other = derived_document(SENTENCES, word_count, distance=0, seed="1")
    assert other != derived_document(SENTENCES, word_count, distance=0)


def test_sentences_that_name_a_city_are_left_out() -> None:
    made = derived_document(["We met in Oslo yesterday."] * 50 + SENTENCES, word_count, distance=250)
    assert "We met" not in made.reference
