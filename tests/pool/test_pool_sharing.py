"""What prompts begin with alike is stored once, and nobody notices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure import greedy
from pooled import BYTES_PER_TOKEN, books_balance, entry, holds, pool_of, rows_of, text
from semshare_core import SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, reference_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bytes_grow_with_distinct_tokens() -> None:
    """A system prompt with ten continuations, one of which has five of its own."""
    pool = pool_of(min_tokens=1)
    system, first = text(0, 100), text(1, 60)
    branches = [system + text(seed, 30) for seed in range(2, 11)] + [
        system + first + text(seed, 20) for seed in range(20, 25)
    ]
    kept = [entry(tokens, seed=number) for number, tokens in enumerate(branches)]
    for each in kept:
        assert pool.add(each)
    assert pool.stats().bytes == (100 + 9 * 30 + 60 + 5 * 20) * BYTES_PER_TOKEN
    assert pool.stats().tokens == sum(map(len, branches))
    assert all(holds(pool, each) for each in kept)
    assert books_balance(pool)


def test_a_conversation_is_stored_once() -> None:
    pool = pool_of()
    tokens = text(0, 64)
    for turn in range(30):
        each = entry(tokens)
        pool.add(each)
        tokens = tokens + text(turn + 1, 20)
    assert pool.stats().entries == 1
    assert pool.stats().bytes == (64 + 29 * 20) * BYTES_PER_TOKEN
    assert holds(pool, each)


def test_short_beginnings_are_not_worth_a_segment() -> None:
    pool = pool_of(block_tokens=16)
    one, other = entry(text(0, 15) + text(1)), entry(text(0, 15) + text(2))
    pool.add(one)
    pool.add(other)
    assert len(one.segments) == len(other.segments) == 1


def test_approximate_rows_are_not_shared() -> None:
    """Rows of the same tokens differ where they are approximate: each entry keeps its own."""
    pool = pool_of()
    shared = text(0, 64)
    one, other = (
        entry(shared + text(1), approximate=[0] * 20 + [1] * 84),
        entry(shared + text(2), approximate=[0] * 30 + [1] * 74),
    )
    exact = entry(shared + text(3))
    for each in (one, other, exact):
        pool.add(each)
    assert [segment.length for segment in other.segments] == [20, 84]
    assert [segment.length for segment in exact.segments] == [20, 84], "not beyond what is lossless in the others"
    assert all(holds(pool, each) for each in (one, other, exact))


def test_what_is_left_of_a_branch_stays_whole() -> None:
    pool = pool_of()
    one, other = entry(text(0, 64) + text(1)), entry(text(0, 64) + text(2))
    pool.add(one)
    pool.add(other)
    pool.discard([one])
    assert holds(pool, other)
    assert pool.stats().bytes == 104 * BYTES_PER_TOKEN
    assert books_balance(pool)


def test_the_beginning_outlives_what_follows_it() -> None:
    """Every use of a continuation is one of the beginning."""
    pool = pool_of(140, min_tokens=1)
    one, other = entry(text(0, 64) + text(1, 30)), entry(text(0, 64) + text(2, 30))
    pool.add(one)
    pool.add(other)
    pool.touch([other])
    pool.add(entry(text(3, 40)))
    assert not holds(pool, one)
    assert holds(pool, other)


def test_readers_of_a_divided_segment_read_on() -> None:
    from semshare_core.pool import View

    pool = pool_of()
    one = entry(text(0, 64) + text(1))
    pool.add(one)
    view = View(one, len(one))
    pool.add(entry(text(0, 64) + text(2)))
    assert len(one.segments) == 2
    (span,) = view.spans
    assert span.rows.layer(0)[0].flatten().tolist() == one.tokens.tolist()


@st.composite
def trees(draw: st.DrawFn) -> list[list[int]]:
    """Texts over two letters: they part and meet everywhere."""
    return draw(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), min_size=1, max_size=10))


@given(trees(), st.data())
@settings(deadline=None, max_examples=150)
def test_any_family_of_prompts(texts: list[list[int]], data: st.DataObject) -> None:
    """Every entry's rows are those of its tokens, whatever came, went and was divided, and lossless rows are never kept
    twice where blocks allow it."""
    pool = pool_of(min_tokens=1, block_tokens=1)
    for number, tokens in enumerate(texts):
        deep = data.draw(st.integers(0, len(tokens)))
        pool.add(entry(tokens, approximate=np.arange(len(tokens)) >= deep, seed=number))
        assert books_balance(pool)
        if data.draw(st.booleans()):
            living = list(pool._entries.chosen(None))
            gone = data.draw(st.sampled_from(living))
            pool.discard([gone])
            assert books_balance(pool)
    for each in pool._entries.chosen(None):
        ((keys, values),) = rows_of(each)
        assert keys.flatten().tolist() == each.tokens.tolist()
        assert values.flatten().tolist() == list(range(len(each)))


@given(trees())
@settings(deadline=None, max_examples=100)
def test_lossless_tokens_are_kept_once(texts: list[list[int]]) -> None:
    """As many rows as the trie of the texts has nodes."""
    pool = pool_of(min_tokens=1, block_tokens=1)
    for number, tokens in enumerate(texts):
        pool.add(entry(tokens, seed=number))
    nodes = {tuple(tokens[:n]) for tokens in texts for n in range(1, len(tokens) + 1)}
    assert pool.stats().bytes == len(nodes) * BYTES_PER_TOKEN


@pytest.mark.parametrize("name", ["llama", "gemma3", "mpt"])
def test_answers_over_shared_rows(name: str) -> None:
    """Prefix and runs are served out of several segments."""
    engine = SemShareEngine(tiny_model(name), tiny_tokenizer())
    text = "\n\n".join(PARAGRAPHS[:2])
    prompts = [f"{text}\n\nQuestion {number}: {PARAGRAPHS[2][number * 20 :][:60]}?" for number in range(3)]
    for prompt in [*prompts, prompts[0] + " And then?"]:
        answer = engine.generate(prompt, max_new_tokens=6, reuse="exact")
        assert answer.token_ids == greedy(engine, prompt, 6)
    for each in engine.pool._entries.chosen(None):
        assert len(each.segments) > 1
        for kept, computed in zip(rows_of(each), reference_of(engine.model, each.tokens).rows, strict=True):
            torch.testing.assert_close(kept, computed, atol=1e-4, rtol=0)
    moved = engine.prefill("Before it. " + prompts[1], reuse="high").report
    assert moved.moved_tokens > len(text) / 2
