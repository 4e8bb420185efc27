"""Exact runs over the whole pool: whoever holds a piece of the prompt is found, however unlike the rest is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooled import entry, pool_of
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.pool.indexes.run_index import SURE_TOKENS, RunIndex, fingerprints
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

tokens = st.integers(0, 3)  # few distinct ones: k-grams repeat and collide in plenty


def text(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5000, n)


@settings(deadline=None)
@given(*[st.lists(tokens, max_size=60)] * 4, st.lists(tokens, min_size=SURE_TOKENS, max_size=40))
def test_a_run_that_is_long_enough_is_found_for_certain(
    before: list[int], after: list[int], ahead: list[int], behind: list[int], run: list[int]
) -> None:
    index = RunIndex()
    index.add("it", np.array(before + run + after))
    assert index.best(np.array(ahead + run + behind), 1) == ["it"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(tokens, max_size=50), min_size=1, max_size=8), st.lists(tokens, max_size=80), st.randoms())
def test_the_order_of_additions_does_not_matter(texts: list[list[int]], asked: list[int], random: object) -> None:
    named = [(f"{number:02}", np.array(each, np.int64)) for number, each in enumerate(texts)]
    found = []
    for _ in range(2):
        index = RunIndex()
        for name, each in named:
            index.add(name, each)
        found.append(index.best(np.array(asked, np.int64), 4))
        random.shuffle(named)  # type: ignore[attr-defined]
    assert found[0] == found[1]
    assert len(set(found[0])) == len(found[0]) <= 4


@settings(deadline=None)
@given(st.lists(st.lists(tokens, max_size=50), min_size=2, max_size=6))
def test_what_left_is_forgotten(texts: list[list[int]]) -> None:
    index = RunIndex()
    for number, each in enumerate(texts):
        index.add(str(number), np.array(each, np.int64))
    for number, each in enumerate(texts):
        index.remove(str(number))
        assert str(number) not in index.best(np.array(each, np.int64), len(texts))
    assert len(index) == 0


def test_one_fingerprint_for_about_eight_tokens() -> None:
    count = len(fingerprints(text(0, 20_000)))
    assert 20_000 / 10 < count < 20_000 / 7


def test_copies_of_one_piece_do_not_hide_the_others() -> None:
    """Each entry counts for what the ones before it lack, so that a much repeated piece is served once."""
    index = RunIndex()
    repeated, rare = text(1, 300), text(2, 60)
    for number in range(50):
        index.add(f"a{number:02}", np.concatenate((text(100 + number, 40), repeated)))
    index.add("rare", np.concatenate((text(99, 200), rare)))
    found = index.best(np.concatenate((repeated, rare)), 2)
    assert found == ["a34", "rare"], "of the 16 added last the first by name"


def test_pieces_of_many_entries() -> None:
    pool = pool_of(100_000)
    pieces = [text(seed, 80) for seed in range(8)]
    for number, piece in enumerate(pieces):
        pool.add(entry(np.concatenate((text(50 + number, 300), piece, text(70 + number, 300))), seed=number))
    for number in range(30):
        pool.add(entry(text(200 + number, 400), seed=number))
    found = pool.sharing("here", np.concatenate(pieces[::-1]), 8)
    assert len(found) == 8
    assert all(any((each.tokens[300:380] == piece).all() for each in found) for piece in pieces)
    assert pool.sharing("there", np.concatenate(pieces), 8) == [], "another namespace's"
    pool.clear()
    assert pool.sharing("here", np.concatenate(pieces), 8) == []


def test_approximate_copies_do_not_crowd_out_originals() -> None:
    """Of one text many approximate copies are pooled, each longer than the original."""
    pool = pool_of(10_000)
    original = entry(text(1, 100))
    pool.add(original)
    for seed in range(2, 12):
        pool.add(entry([*text(seed, 30), *text(1, 100), *text(100, 30)], approximate=True))
    found = pool.sharing("here", np.array([*text(1, 100), *text(100, 30)]), 2)
    assert original in found
    assert any(each.account for each in found), "what only the copies have is found, too"


def test_approximate_rows_are_found() -> None:
    """Whether they may serve is for the forecast to say."""
    pool = pool_of(10_000)
    first, second = text(1, 100), text(2, 100)
    pool.add(entry(np.concatenate((first, second)), approximate=[0] * 100 + [1] * 100))
    assert len(pool.sharing("here", first, 4)) == 1
    assert len(pool.sharing("here", second, 4)) == 1


def test_a_prompt_made_of_pieces_of_unlike_prompts() -> None:
    """One semantic neighbour only, and five references."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(candidates=1))
    pieces = ["".join(chr(32 + int(code)) for code in np.random.default_rng(seed).integers(0, 90, 100)) for seed in
              range(5)]  # fmt: skip
    engine.warm([f"{chr(65 + number) * 150}\n\n{piece}\n\n{number}" for number, piece in enumerate(pieces)])
    report = engine.prefill("\n\n".join(pieces[::-1]) + "\n\nWhich?", reuse=ReusePolicy(recompute_ratio=0.3)).report
    assert len(report.reference_ids) == 5
    assert report.moved_tokens >= 5 * 100
