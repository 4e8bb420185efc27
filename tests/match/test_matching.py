"""Properties of matching: prefix, exact runs and the plans they make. Small alphabets, so that everything collides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core import ReusePolicy
from semshare_core.match import ReusePlan, Source, TokenTable, build_plan, find_runs, runs
from semshare_core.match.plan import EDIT_TOKENS
from semshare_core.tokens import Tokens, common_prefix

TABLE = TokenTable(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)))
K = 3

texts = st.lists(st.integers(0, 3), max_size=40).map(lambda ids: np.array(ids, np.int64))
short_texts = st.lists(st.integers(0, 2), max_size=14).map(lambda ids: np.array(ids, np.int64))
policies = st.builds(
    ReusePolicy,
    matching=st.sampled_from(["ordered", "lsh", "runs", "random"]),
    min_run=st.integers(2, 6),
    seed=st.integers(0, 3),
)


@dataclass(frozen=True)
class Text:
    id: str
    tokens: Tokens


def named(bodies: Sequence[Tokens]) -> list[Text]:
    return [Text(f"{number:02d}", body) for number, body in enumerate(bodies)]


def naive_runs(target: Tokens, reference: Tokens) -> list[tuple[int, int, int]]:
    """(length, target start, reference start) of all runs that cannot be extended."""
    found = []
    for t in range(len(target)):
        for r in range(len(reference)):
            if t and r and target[t - 1] == reference[r - 1]:
                continue
            length = common_prefix(target[t:], reference[r:])
            if length:
                found.append((length, t, r))
    return found


# --- prefix and runs ---------------------------------------------------------------------------------------------


@given(texts, texts)
def test_common_prefix(a: Tokens, b: Tokens) -> None:
    n = common_prefix(a, b)
    assert (a[:n] == b[:n]).all()
    assert n == min(len(a), len(b)) or a[n] != b[n]
    assert common_prefix(b, a) == n


@given(texts, st.lists(texts, max_size=3), st.integers(2, 5), st.integers(0, 10))
def test_runs_are_identical_disjoint_and_long_enough(target: Tokens, bodies: list[Tokens], k: int, start: int) -> None:
    references = named(bodies)
    taken = np.zeros(len(target), bool)
    found = find_runs(target, references, k, start)
    for run in found:
        here = slice(run.start, run.start + run.length)
        there = references[run.reference].tokens[run.position : run.position + run.length]
        assert run.length >= k
        assert run.start >= start
        assert target[here].tolist() == there.tolist()
        assert not taken[here].any()
        taken[here] = True
    assert [run.start for run in found] == sorted(run.start for run in found)


@given(short_texts, short_texts)
def test_longest_run_comes_first_and_nothing_long_is_left(target: Tokens, reference: Tokens) -> None:
    """Reference texts are short enough that no k-gram stands in more places than are followed."""
    found = find_runs(target, [Text("a", reference)], K)
    longest = max((length for length, _, _ in naive_runs(target, reference)), default=0)
    assert max((run.length for run in found), default=0) == (longest if longest >= K else 0)
    left = np.ones(len(target), bool)
    for run in found:
        left[run.start : run.start + run.length] = False
    for length, t, _ in naive_runs(target, reference):
        assert not any(left[at : at + K].all() for at in range(t, t + length - K + 1))


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 30))
def test_runs_with_approximate_rows_are_identical_disjoint_and_long_enough(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(0, 50, int(rng.integers(5, 60))) for _ in range(6)]
    target, *bodies = (np.concatenate([blocks[b] for b in rng.integers(0, 6, rng.integers(1, 7))]) for _ in range(4))
    lossless = [int(rng.integers(0, len(body) + 1)) for body in bodies]
    start = int(rng.integers(0, len(target)))
    served = np.full((len(target), 2), -1)
    for run in find_runs(target, named(bodies), k, start, lossless=lossless):
        tokens = slice(run.start, run.start + run.length)
        assert run.start >= start
        assert (served[tokens] == -1).all()
        assert (target[tokens] == bodies[run.reference][run.position : run.position + run.length]).all()
        served[tokens, 0] = run.reference
        served[tokens, 1] = run.start - run.position
    changes = np.flatnonzero((np.diff(served, axis=0) != 0).any(axis=1)) + 1
    for stretch in np.split(served, changes):
        assert stretch[0, 0] == -1 or len(stretch) >= k


def test_the_end_of_an_approximate_copy_does_not_serve_alone() -> None:
    """Where another original serves all of the copy before it, what is left is shorter than a run."""
    rng = np.random.default_rng(0)
    before, passage, end, other = (rng.integers(0, 1000, n) for n in (40, 60, 5, 40))
    bodies = [np.concatenate((before, passage)), np.concatenate((other, passage, end))]
    found = find_runs(np.concatenate((before, passage, end)), named(bodies), 8, lossless=[100, 100])
    assert [(run.start, run.length, run.reference) for run in found] == [(0, 100, 0)]


def test_longest_first_whatever_stands_first() -> None:
    """A run that begins earlier but is shorter is cut, not the longer one."""
    target = np.arange(20)
    early, late = np.arange(0, 9), np.arange(5, 20)
    found = find_runs(target, named([early, late]), 4)
    assert [(run.start, run.length, run.reference) for run in found] == [(0, 5, 0), (5, 15, 1)]


def test_a_hash_collision_serves_no_other_text(monkeypatch: pytest.MonkeyPatch) -> None:
    target, reference = np.arange(0, 12), np.array([50, 51, 52, 53, 3, 4, 5, 6, 7, 54, 55, 56])
    monkeypatch.setattr(runs, "kgram_hashes", lambda tokens, k: np.zeros(max(len(tokens) - k + 1, 0), np.uint64))
    (run,) = find_runs(target, [Text("a", reference)], K)
    assert (run.start, run.length, run.position) == (3, 5, 4)


# --- plans -------------------------------------------------------------------------------------------------------


Request = tuple[Tokens, list[Text], ReusePolicy, tuple[str, int] | None, list[str]]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    target = draw(texts.filter(len))
    references = named(draw(st.lists(texts.filter(len), min_size=1, max_size=3)))
    chosen = draw(st.sampled_from(references))
    length = draw(st.integers(0, common_prefix(chosen.tokens, target)))
    fuzzy = draw(st.lists(st.sampled_from([reference.id for reference in references]), unique=True))
    return target, references, draw(policies), (chosen.id, length) if length else None, fuzzy


@given(requests())
@settings(deadline=None)
def test_every_token_is_accounted_for_and_served_by_what_it_claims(request: Request) -> None:
    target, references, policy, prefix, fuzzy = request
    plan = build_plan(target, references, policy, TABLE, prefix=prefix, fuzzy=fuzzy)
    assert sum(plan.count(source) for source in Source) == len(plan) == len(target)
    by_id = {reference.id: reference.tokens for reference in references}
    for at in range(len(plan)):
        if plan.source[at] == Source.NEW:
            assert (plan.reference[at], plan.position[at]) == (-1, -1)
            continue
        text = by_id[plan.reference_ids[plan.reference[at]]]
        assert 0 <= plan.position[at] < len(text)
        if plan.source[at] != Source.FUZZY:
            assert text[plan.position[at]] == target[at]
    start = prefix[1] if prefix else 0
    assert (plan.source[:start] == Source.PREFIX).all()
    assert plan.prefix_tokens == start
    assert (plan.position[:start] == np.arange(start)).all()
    exact = plan.source == Source.MOVED
    assert not exact.any() or policy.matching in ("ordered", "runs")
    if not fuzzy or policy.matching == "runs":
        assert not (plan.source == Source.FUZZY).any()
    else:
        assert plan.served.all()
        allowed = fuzzy if policy.matching == "ordered" else fuzzy[:1]
        assert {plan.reference_ids[number] for number in plan.reference[plan.source == Source.FUZZY]} <= {*allowed}
    edges = np.flatnonzero(np.diff(np.concatenate(([0], exact.astype(int), [0]))))
    assert all(end - begin >= policy.min_run for begin, end in edges.reshape(-1, 2))


@given(requests(), st.randoms())
@settings(deadline=None)
def test_the_order_of_references_does_not_matter(request: Request, random: Random) -> None:
    target, references, policy, prefix, fuzzy = request
    shuffled = list(references)
    random.shuffle(shuffled)
    one, other = (
        build_plan(target, order, policy, TABLE, prefix=prefix, fuzzy=fuzzy) for order in (references, shuffled)
    )
    assert one.reference_ids == other.reference_ids
    for field in ("source", "reference", "position"):
        assert getattr(one, field).tolist() == getattr(other, field).tolist()


@given(requests())
@settings(deadline=None)
def test_a_stretch_of_new_tokens_comes_from_one_reference_that_is_next_to_it(request: Request) -> None:
    target, references, policy, prefix, fuzzy = request
    policy = policy.model_copy(update={"matching": "ordered"})
    plan = build_plan(target, references, policy, TABLE, prefix=prefix, fuzzy=fuzzy)
    is_fuzzy = (plan.source == Source.FUZZY).astype(int)
    names = [None if number < 0 else plan.reference_ids[number] for number in plan.reference]
    for begin, end in np.flatnonzero(np.diff(np.concatenate(([0], is_fuzzy, [0])))).reshape(-1, 2):
        (served_by,) = {*names[begin:end]}
        beside = {names[begin - 1] if begin else None, names[end] if end < len(names) else None} & {*fuzzy}
        assert not beside or served_by in beside


def test_new_tokens_follow_the_text_around_them() -> None:
    """Two texts with a word changed in each; the first of the references would have the very words elsewhere."""
    first, second = np.arange(100, 130), np.arange(130, 160)
    references = named([np.concatenate((first, [7, 8])), second])
    target = np.concatenate((first, second))
    target[[10, 40]] = [8, 7]
    plan = build_plan(target, references, ReusePolicy(), TABLE, fuzzy=["00", "01"])
    assert (plan.source[[10, 40]] == Source.FUZZY).all()
    assert [plan.reference_ids[plan.reference[at]] for at in (10, 40)] == ["00", "01"]


def test_between_two_texts_and_beside_none_similar_tokens_decide() -> None:
    first, second = np.arange(100, 120), np.arange(130, 150)
    between = np.array([50, 51, 52])
    for holder in ("00", "01"):
        references = [
            Text("00", np.concatenate((first, between)) if holder == "00" else first),
            Text("01", np.concatenate((between, second)) if holder == "01" else second),
        ]
        for target in (np.concatenate((first, between, second)), between):
            plan = build_plan(target, references, ReusePolicy(), TABLE, fuzzy=["00", "01"])
            at = int(np.flatnonzero(target == 51)[0])
            assert plan.source[at] == Source.FUZZY or len(target) > 3
            assert plan.reference_ids[plan.reference[at]] == holder


def test_of_equals_the_best_reference_serves() -> None:
    body = np.arange(100, 130)
    for order in (["00", "01"], ["01", "00"]):
        plan = build_plan(np.arange(5), named([body, body]), ReusePolicy(), TABLE, fuzzy=order)
        assert plan.drawn_on == order[:1]


def test_random_matching_is_fixed_by_its_seed() -> None:
    target, reference = np.arange(50), Text("a", np.arange(100, 200))
    one, same, other = (
        build_plan(target, [reference], ReusePolicy(matching="random", seed=seed), TABLE, fuzzy=["a"]).position.tolist()
        for seed in (1, 1, 2)
    )
    assert one == same != other


# --- seams -------------------------------------------------------------------------------------------------------


def plan_between(target: Tokens, *bodies: Tokens, prefix: int = 0) -> ReusePlan:
    return build_plan(
        target, named(bodies), ReusePolicy(matching="runs", min_run=4), TABLE, prefix=("00", prefix) if prefix else None
    )


def seams_between(target: Tokens, *bodies: Tokens, prefix: int = 0) -> list[int]:
    return np.flatnonzero(plan_between(target, *bodies, prefix=prefix).seams()).tolist()


BLOCKS = np.arange(120).reshape(4, 30)
WHOLE = BLOCKS.ravel()


@given(st.integers(1, 120))
def test_the_same_text_in_the_same_place_has_no_seam(n: int) -> None:
    assert seams_between(WHOLE[:n], WHOLE) == []
    assert seams_between(WHOLE[:n], WHOLE, prefix=n // 2) == []


def test_a_moved_block_has_a_seam_where_it_begins_and_one_after_it() -> None:
    assert seams_between(BLOCKS[[0, 2, 1, 3]].ravel(), WHOLE) == [30, 60, 90]
    assert seams_between(BLOCKS[[0, 2, 1, 3]].ravel(), WHOLE, prefix=30) == [30, 60, 90]
    assert seams_between(BLOCKS[[0, 1, 3]].ravel(), WHOLE) == [60]


@given(st.integers(4, 110), st.integers(1, EDIT_TOKENS))
def test_a_substitution_has_no_seam(at: int, length: int) -> None:
    target = WHOLE.copy()
    target[at : at + length] = 200 + np.arange(len(target[at : at + length]))
    assert seams_between(target, WHOLE) == []


@pytest.mark.parametrize(("extra", "seams"), [(1, []), (EDIT_TOKENS, []), (EDIT_TOKENS + 1, [30 + EDIT_TOKENS + 1])])
def test_an_insertion_is_an_edit_until_it_is_long(extra: int, seams: list[int]) -> None:
    target = np.concatenate((WHOLE[:30], 200 + np.arange(extra), WHOLE[30:]))
    assert seams_between(target, WHOLE) == seams


@pytest.mark.parametrize("gap", [1, EDIT_TOKENS, EDIT_TOKENS + 1, 40])
def test_tokens_left_out_leave_a_seam(gap: int) -> None:
    """Nothing stands in their place that would be recomputed, so the seam must."""
    assert seams_between(np.concatenate((WHOLE[:30], WHOLE[30 + gap :])), WHOLE) == [30]


def test_another_reference_is_a_seam() -> None:
    assert seams_between(np.concatenate((BLOCKS[0], BLOCKS[1])), BLOCKS[0], np.concatenate((BLOCKS[2], BLOCKS[1]))) == [
        30
    ]


def test_a_displaced_begin_is_a_seam() -> None:
    assert seams_between(WHOLE[1:], WHOLE) == [0]
    assert seams_between(BLOCKS[2], WHOLE) == [0]
    assert seams_between(np.concatenate(([250, 251], BLOCKS[2])), WHOLE) == [2]
    assert seams_between(np.array([250, 251, 252]), WHOLE) == []


def test_a_seam_is_never_in_the_prefix() -> None:
    plan = plan_between(WHOLE[:60], WHOLE, prefix=30)
    plan.position[10:20] += 5  # as no pool would have it
    assert not plan.seams()[:30].any()
