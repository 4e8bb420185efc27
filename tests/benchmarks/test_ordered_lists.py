"""Lists in several orders: every line is kept, and the gold name stands where the question asks."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from benchmarks.workloads.ordered_lists import LINE, NAMES, OrderedList, ordered_lists


def _names(prompt: str) -> list[str]:
    """Of the list alone, in its order."""
    return [word for word in re.findall(r"[A-Za-z]+", prompt.split("Answer the question")[0]) if word in NAMES]


@pytest.mark.parametrize("kind", LINE)
def test_gold_stands_where_the_question_asks(kind: str) -> None:
    for place, expected in (("first", 0), ("last", -1)):
        [made] = ordered_lists(count=1, turns=3, kinds=[kind], places=[place])  # type: ignore[list-item]
        for turn in made.turns:
            names = _names(turn.prompt)
            assert len(names) == 20
            assert turn.gold == names[expected]


def test_neighbours() -> None:
    for place, step in (("before", -1), ("after", 1)):
        for made in ordered_lists(count=10, places=[place]):  # type: ignore[list-item]
            for turn in made.turns:
                other = re.findall(rf"directly {place} (\w+)", turn.prompt)[0]
                names = _names(turn.prompt)
                assert names[names.index(other) + step] == turn.gold


def test_orders_have_the_same_lines_and_the_old_name_is_the_one_before() -> None:
    made = ordered_lists(count=8, turns=4)
    for each in made:
        assert len({frozenset(turn.prompt.split("\n")[1:21]) for turn in each.turns}) == 1
        for earlier, later in zip(each.turns, each.turns[1:], strict=False):
            assert earlier.prompt != later.prompt
            assert later.old == ("" if earlier.gold == later.gold else earlier.gold)
        assert not each.turns[0].old


def test_same_seed_same_lists_and_other_seeds_other_ones() -> None:
    def key(made: list[OrderedList]) -> list[str]:
        return [turn.prompt for each in made for turn in each.turns]

    assert key(ordered_lists(count=3, seed=4)) == key(ordered_lists(count=5, seed=4)[:3])
    assert key(ordered_lists(count=3, seed=4)) != key(ordered_lists(count=3, seed=5))


def test_a_list_may_stand_inside_other_text() -> None:
    for each in ordered_lists(count=4, turns=3, before="A letter of the office.", after="Yours, N."):
        assert len(each.turns) == 3
        for turn in each.turns:
            assert turn.prompt.startswith("A letter of the office.\n\nThe list:")
            assert "\n\nYours, N.\n\nAnswer" in turn.prompt


def test_ways_to_reorder() -> None:
    for order in ("shuffled", "rotated", "few moved"):
        for made in ordered_lists(count=5, turns=3, orders=[order]):  # type: ignore[list-item]
            for earlier, later in pairwise(made.turns):
                before, after = _names(earlier.prompt), _names(later.prompt)
                assert before != after
                kept = sum(first in pairwise(before) for first in pairwise(after))
                assert {"rotated": kept == 18, "few moved": kept >= 10, "shuffled": kept < 10}[order]


def test_more_lines_than_names_are_refused() -> None:
    with pytest.raises(ValueError, match="lines"):
        ordered_lists(lines=len(NAMES) + 1)
