"""How foreign reused rows are where they stand: what they had read against what stands before them now."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from semshare_core.match import context
from semshare_core.match.context import context_mismatch, misaligned, short_matches
from semshare_core.match.plan import ReusePlan, Source


def plan_of(*runs: tuple[Source, int, int, int]) -> ReusePlan:
    """Runs of (source, reference, position, length), one after the other."""
    plan = ReusePlan.empty(sum(length for *_, length in runs))
    at = 0
    for source, reference, position, length in runs:
        if source is not Source.NEW:
            plan.serve(at, at + length, source, reference, position)
        at += length
    return plan


def test_what_stands_where_it_stood_has_read_the_same() -> None:
    changed, shallow = context_mismatch(plan_of((Source.PREFIX, 0, 0, 6), (Source.MOVED, 0, 6, 4)))
    assert changed.tolist() == [0.0] * 10
    assert shallow.tolist() == pytest.approx([1 / (1 + place) for place in range(10)]), "one run all the same"


def test_a_passage_that_lost_all_that_stood_before_it() -> None:
    changed, _ = context_mismatch(plan_of((Source.MOVED, 0, 10, 4)))
    assert changed.tolist() == pytest.approx([1 - (k + 1) / (k + 10 + 1) for k in range(4)])


def test_swapped_passages_have_each_other_in_common_with_nothing() -> None:
    """The first now stood second and has lost its context; the second has gained one."""
    changed, _ = context_mismatch(plan_of((Source.MOVED, 0, 5, 5), (Source.MOVED, 0, 0, 5)))
    assert changed[0] == changed[5] == pytest.approx(1 - 1 / 6)
    assert changed[4] == changed[9] == pytest.approx(1 - 5 / 10)


def test_other_references_hold_nothing_of_what_was_read_here() -> None:
    changed, _ = context_mismatch(plan_of((Source.MOVED, 0, 0, 5), (Source.MOVED, 1, 5, 1)))
    assert changed[5] == pytest.approx(1 - 1 / 11)


def test_fuzzy_new_and_stale_tokens_are_not_asked_about() -> None:
    plan = plan_of((Source.MOVED, 0, 0, 2), (Source.FUZZY, 0, 2, 2), (Source.NEW, 0, 0, 2), (Source.MOVED, 0, 4, 2))
    stale = np.zeros(8, bool)
    stale[6] = True
    changed, shallow = context_mismatch(ReusePlan(plan.source, plan.reference, plan.position, (), stale=stale))
    assert not changed[2:7].any()
    assert not shallow[2:7].any()
    assert changed[7] > 0
    assert shallow[7] == 1


HOME = 24  # identical tokens: enough for a passage to be one


def test_rows_beside_an_identical_run_are_in_their_place() -> None:
    around = ((Source.MOVED, 0, 10, HOME), (Source.FUZZY, 0, HOME + 10, 3), (Source.MOVED, 0, HOME + 13, HOME))
    assert not misaligned(plan_of(*around)).any()
    longer = ((Source.MOVED, 0, 10, HOME), (Source.FUZZY, 0, HOME + 10, 3), (Source.MOVED, 0, HOME + 21, HOME))
    assert not misaligned(plan_of(*longer)).any(), "other words, and more of them, on one side"


def test_rows_from_anywhere_else_are_astray() -> None:
    strays = list(range(HOME, HOME + 3))
    elsewhere = ((Source.MOVED, 0, 10, HOME), (Source.FUZZY, 0, 90, 3), (Source.MOVED, 0, HOME + 13, HOME))
    assert np.flatnonzero(misaligned(plan_of(*elsewhere))).tolist() == strays
    other = ((Source.MOVED, 0, 10, HOME), (Source.FUZZY, 1, HOME + 10, 3), (Source.MOVED, 0, HOME + 13, HOME))
    assert np.flatnonzero(misaligned(plan_of(*other))).tolist() == strays
    assert misaligned(plan_of((Source.FUZZY, 0, 0, 3), (Source.NEW, 0, 0, 2))).tolist() == [True] * 3 + [False] * 2


def test_diagonals_drift_with_the_distance_from_identical_runs() -> None:
    far = ((Source.MOVED, 0, 0, 4), (Source.FUZZY, 0, 4, 60), (Source.FUZZY, 0, 80, 1))
    assert not misaligned(plan_of(*far)).any(), "16 tokens off at a distance of 61"
    near = ((Source.MOVED, 0, 0, 4), (Source.FUZZY, 0, 20, 1))
    assert misaligned(plan_of(*near))[4]


def test_a_few_words_from_elsewhere_are_an_island() -> None:
    around = (Source.NEW, 0, 0, 3)
    assert np.flatnonzero(short_matches(plan_of(around, (Source.MOVED, 0, 50, HOME - 1), around))).tolist() == list(
        range(3, HOME + 2)
    )
    assert not short_matches(plan_of(around, (Source.MOVED, 0, 50, HOME), around)).any()


def test_an_island_is_nobodys_place() -> None:
    plan = plan_of((Source.NEW, 0, 0, 3), (Source.MOVED, 0, 50, 8), (Source.FUZZY, 0, 58, 2), (Source.NEW, 0, 0, 3))
    assert np.flatnonzero(misaligned(plan)).tolist() == list(range(3, 13))


def test_a_few_words_in_their_place_are_not_astray() -> None:
    home, between = (Source.MOVED, 0, 10, HOME), (Source.NEW, 0, 0, 60)
    place = 10 + HOME + 60
    plan = plan_of(home, between, (Source.MOVED, 0, place + 20, 5), between)
    assert short_matches(plan).sum() == 5
    assert not misaligned(plan).any(), "20 tokens off at a distance of 61"
    for elsewhere in ((Source.MOVED, 0, place + 90, 5), (Source.MOVED, 1, place + 20, 5)):
        strays = np.flatnonzero(misaligned(plan_of(home, between, elsewhere, between)))
        assert strays.tolist() == list(range(HOME + 60, HOME + 65))


def test_runs_of_one_passage_that_was_edited_are_counted_together() -> None:
    half = HOME // 2
    edited = ((Source.MOVED, 0, 50, half), (Source.FUZZY, 0, 50 + half, 1), (Source.MOVED, 0, 51 + half, HOME - half))
    assert not misaligned(plan_of((Source.NEW, 0, 0, 3), *edited)).any()
    apart = ((Source.MOVED, 0, 50, half), (Source.MOVED, 0, 90, half))
    assert short_matches(plan_of((Source.NEW, 0, 0, 3), *apart)).sum() == 2 * half


def test_what_stands_where_it_stood_is_no_island() -> None:
    assert not short_matches(plan_of((Source.PREFIX, 0, 0, 2), (Source.MOVED, 0, 2, 2), (Source.NEW, 0, 0, 3))).any()


RUNS = st.lists(
    st.tuples(
        st.sampled_from([Source.MOVED, Source.FUZZY, Source.NEW]),
        st.integers(0, 2),
        st.integers(0, 99),
        st.integers(1, 6),
    ),
    min_size=1,
    max_size=12,
)


@given(RUNS, st.integers(1, 3))
def test_it_is_the_jaccard_distance_of_the_two_contexts(runs: list[tuple[Source, int, int, int]], block: int) -> None:
    plan = plan_of(*runs)
    exact = plan.source == Source.MOVED
    rows = list(zip(plan.reference[exact].tolist(), plan.position[exact].tolist(), strict=True))
    assume(len(set(rows)) == len(rows))  # a row that is served twice is counted for each run as a whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "_BLOCK", block)
        changed, _ = context_mismatch(plan)
    for token in range(len(plan)):
        if plan.source[token] != Source.MOVED:
            assert changed[token] == 0
            continue
        position = plan.position[token]
        earlier = [
            (other, plan.position[other])
            for other in range(token)
            if plan.source[other] == Source.MOVED and plan.reference[other] == plan.reference[token]
        ]
        common = min(sum(place < position for _, place in earlier), position, token)
        assert changed[token] == pytest.approx(1 - (common + 1) / (token + position - common + 1))
