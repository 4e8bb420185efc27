"""Fuzzy matching: LSH and order-aware matchers against brute force, and the token table that both stand on."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from semshare_core.baselines.semsharekv import LshMatcher
from semshare_core.match import TokenTable
from semshare_core.match.matchers.ordered import OrderedMatcher, expected_positions
from semshare_core.tokens import Positions, Tokens

WEIGHT = torch.randn(60, 17, generator=torch.Generator().manual_seed(0))
TABLE = TokenTable(WEIGHT)
DIM = 16

texts = st.lists(st.integers(0, 20), min_size=1, max_size=60).map(lambda ids: np.array(ids, np.int64))


@st.composite
def alignments(draw: st.DrawFn) -> tuple[Tokens, Positions, Tokens, Positions]:
    """Target, wanted positions, reference, and anchors at the other positions."""
    target, reference = draw(texts), draw(texts)
    chance = draw(st.sampled_from([0.0, 0.3, 0.9]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    held = rng.random(len(target)) < chance
    anchors = np.where(held, rng.integers(0, len(reference), len(target)), -1)
    return target, np.flatnonzero(~held), reference, anchors


def cosine(a: int, b: int) -> float:
    one, other = TABLE.unit(np.array([a, b]))
    return float(one @ other)


# --- the order-aware matcher -------------------------------------------------------------------------------------


@given(alignments(), st.integers(1, 30))
@settings(deadline=None)
def test_ordered_matcher_takes_the_best_of_its_window(
    alignment: tuple[Tokens, Positions, Tokens, Positions], window: int
) -> None:
    target, wanted, reference, anchors = alignment
    matcher = OrderedMatcher(TABLE, window=window)
    position, similarity = matcher.align(target, wanted, reference, anchors)
    assert len(position) == len(similarity) == len(wanted)
    if not len(wanted):
        return
    for at, expected, found, claimed in zip(
        wanted, expected_positions(anchors, wanted, len(reference)), position, similarity, strict=True
    ):
        assert 0 <= found < len(reference)
        assert abs(found - expected) <= window
        assert claimed == pytest.approx(cosine(target[at], reference[found]), abs=1e-5)
        best = max(
            cosine(target[at], reference[place]) - matcher.penalty * abs(place - expected) / window
            for place in range(max(0, expected - window), min(len(reference), expected + window + 1))
        )
        assert claimed - matcher.penalty * abs(found - expected) / window == pytest.approx(best, abs=1e-5)


@given(alignments())
def test_expected_positions_are_in_range(alignment: tuple[Tokens, Positions, Tokens, Positions]) -> None:
    _, wanted, reference, anchors = alignment
    expected = expected_positions(anchors, wanted, len(reference))
    assert ((expected >= 0) & (expected < len(reference))).all()


def test_expected_positions_lie_between_anchors_and_along_diagonals() -> None:
    anchors = np.full(40, -1)
    anchors[10], anchors[20] = 30, 50  # the reference says in twenty tokens what the target says in ten
    wanted = np.array([0, 8, 15, 18, 22, 39])
    assert expected_positions(anchors, wanted, 60).tolist() == [20, 28, 40, 46, 52, 59]
    anchors[20] = 5  # another passage, further to the front: no interpolation, the nearer anchor's diagonal
    assert expected_positions(anchors, np.array([12, 18]), 60).tolist() == [32, 3]
    assert expected_positions(np.full(10, -1), np.array([0, 5, 9]), 20).tolist() == [0, 10, 18]


def test_an_identical_token_nearby_wins() -> None:
    reference = np.arange(40)
    anchors = np.full(40, -1)
    anchors[0], anchors[39] = 0, 39
    position, similarity = OrderedMatcher(TABLE).align(reference, np.arange(1, 39), reference, anchors)
    assert position.tolist() == list(range(1, 39))
    np.testing.assert_allclose(similarity, 1, atol=1e-5)


def test_nothing_to_match() -> None:
    some, none = np.arange(5), np.empty(0, np.int64)
    assert [len(part) for part in OrderedMatcher(TABLE).align(some, none, some, np.full(5, -1))] == [0, 0]
    assert OrderedMatcher(TABLE).align(some, some, none, np.full(5, -1))[0].tolist() == [-1] * 5


# --- LSH ---------------------------------------------------------------------------------------------------------


@given(alignments())
@settings(deadline=None)
def test_lsh_positions_are_in_range(
    alignment: tuple[Tokens, Positions, Tokens, Positions],
) -> None:
    target, wanted, reference, _ = alignment
    assume(len(wanted))
    position = LshMatcher(TABLE).nearest(target, wanted, reference)
    assert len(position) == len(wanted)
    assert ((position >= 0) & (position < len(reference))).all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 60))
@settings(deadline=None)
def test_lsh_takes_the_nearest_occurrence_of_the_same_token(body: list[int], at: int) -> None:
    """With a single candidate id, the id itself, position decides; of two as near, either."""
    reference = np.array(body)
    target = np.full(61, body[0])
    matcher = LshMatcher(TABLE, neighbours=1)
    (found,) = matcher.nearest(target, np.array([at]), reference)
    assert reference[found] == body[0]
    occurrences = np.flatnonzero(reference == body[0])
    below, above = occurrences[occurrences <= at], occurrences[occurrences >= at]
    assert found in {*below[-1:].tolist(), *above[:1].tolist()}, "nearest on its side"
    if np.abs(occurrences - at).min() == 0:
        assert found == at


def test_rope_scores_are_inner_products_of_rotated_embeddings() -> None:
    target, reference = np.arange(10), np.arange(30, 50)
    wanted = np.array([2, 7])
    candidates = np.array([[0, 19], [7, 3]])
    scores = LshMatcher(TABLE)._rope_scores(target[wanted], wanted, reference, candidates)
    for row, column in np.ndindex(scores.shape):
        place = int(candidates[row, column])
        expected = rotated(target[wanted[row]], int(wanted[row])) @ rotated(reference[place], place)
        assert scores[row, column] == pytest.approx(float(expected), abs=1e-5)


def rotated(token: int, position: int) -> np.ndarray:
    half = DIM // 2
    turn = np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
    unit = TABLE.unit(np.array([token]))[0]
    pairs = (unit[:half] + 1j * unit[half:]) * turn
    return np.concatenate((pairs.real, pairs.imag))


def test_lsh_finds_the_token_with_the_most_similar_embedding() -> None:
    """Hashing is a sieve: with enough bits the nearest id by cosine passes it nearly always."""
    reference = np.arange(20, 60)
    near = LshMatcher(TABLE, bits=2048, neighbours=4)._nearest_ids(np.arange(20), reference)
    cosines = TABLE.unit(np.arange(20)) @ TABLE.unit(reference).T
    hits = [reference[cosines[row].argmax()] in near[row] for row in range(20)]
    assert np.mean(hits) >= 0.9


# --- the token table ---------------------------------------------------------------------------------------------


def test_rows_are_unit_and_in_order() -> None:
    ids = np.array([5, 3, 5, 59, 0])
    rows = TABLE.unit(ids)
    assert (rows.dtype, rows.shape) == (np.float32, (5, DIM)), "an odd last dimension is left out"
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert (rows[0] == rows[2]).all()
    for row, token in zip(rows, ids, strict=True):
        np.testing.assert_allclose(row, TABLE.unit(np.array([token]))[0], atol=1e-6)


def test_cosines_are_those_of_the_rows_in_order() -> None:
    ids, others = np.array([5, 3, 59]), np.array([0, 3, 3, 12])
    np.testing.assert_allclose(TABLE.cosines(ids, others), TABLE.unit(ids) @ TABLE.unit(others).T, atol=1e-6)


def test_a_common_direction_is_no_similarity() -> None:
    """What all embeddings share says nothing about any of them."""
    shared = TokenTable(WEIGHT[:, :DIM] + 10 * torch.ones(DIM))
    cosines = shared.unit(np.arange(60)) @ shared.unit(np.arange(60)).T
    assert abs(cosines[~np.eye(60, dtype=bool)].mean()) < 0.3


@given(texts, st.randoms())
def test_a_prompts_embedding_is_unit_and_knows_no_order(ids: Tokens, random: Random) -> None:
    shuffled = ids.tolist()
    random.shuffle(shuffled)
    one, other = TABLE.embed(ids), TABLE.embed(np.array(shuffled))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_rare_tokens_weigh_more() -> None:
    frequent, rare = np.array([0, 1]), np.array([57, 58])
    both = TABLE.embed(np.concatenate((frequent, rare)))
    assert both @ TABLE.embed(rare) > both @ TABLE.embed(frequent)


def test_low_precision_weights_are_compared_in_float32() -> None:
    rows = TokenTable(WEIGHT.to(torch.bfloat16)).unit(np.arange(60))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
