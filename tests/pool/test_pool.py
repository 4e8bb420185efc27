"""The pool: what it keeps within its budget, what leaves first, and what its indexes find."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pooled import BYTES_PER_TOKEN, books_balance, direction, entry, holds, pool_of, rows_of, text
from semshare_core.pool import Entry, ReferencePool
from semshare_core.tokens import common_prefix

# --- budget and eviction -----------------------------------------------------------------------------------------


def test_the_least_recently_used_leaves_first() -> None:
    pool = pool_of(100)
    one, two, three, four = (entry(text(seed)) for seed in range(4))
    assert all(pool.add(each) for each in (one, two))
    pool.touch([one])
    assert pool.add(three), "80 of 100 tokens are taken"
    assert [holds(pool, each) for each in (one, two, three)] == [True, False, True]
    assert pool.add(four)
    assert [holds(pool, each) for each in (one, two, three, four)] == [False, False, True, True]
    stats = pool.stats()
    assert (stats.entries, stats.tokens, stats.bytes, stats.evictions) == (2, 80, 80 * BYTES_PER_TOKEN, 2)
    assert one.segments[0].rows.layer(0)[0].shape[2] == 40, "an entry in use stays valid"


def test_a_large_entry_drives_out_as_many_as_it_must() -> None:
    pool = pool_of(200)
    small = [entry(text(seed)) for seed in range(5)]
    for each in small:
        pool.add(each)
    assert pool.add(entry(text(9, 100)))
    assert [holds(pool, each) for each in small] == [False, False, False, True, True]


def test_the_budget_is_shared_by_namespaces() -> None:
    pool = pool_of(100)
    mine, theirs = entry(text(0), "a"), entry(text(1), "b")
    pool.add(mine)
    pool.add(theirs)
    pool.add(entry(text(2), "b"))
    assert not holds(pool, mine)
    assert holds(pool, theirs)


def test_an_entry_that_fills_the_budget_fits_and_one_token_more_does_not() -> None:
    pool = pool_of(40)
    exact = entry(text(0, 40))
    assert pool.add(exact)
    assert not pool.add(entry(text(1, 41)))
    assert holds(pool, exact), "what does not fit drives nothing out"
    assert (pool.stats().rejected, pool.stats().evictions) == (1, 0)


def test_a_pool_without_budget_keeps_nothing() -> None:
    pool = pool_of(0)
    assert not pool.add(entry(text(0)))
    assert pool.stats().entries == pool.stats().bytes == 0
    assert pool.longest_prefix("here", np.array(text(0)), 0) is None
    assert pool.similar("here", direction(0)) == []


@pytest.mark.parametrize("copy", [False, True])
def test_rows_of_a_larger_buffer_do_not_keep_it_alive(copy: bool) -> None:
    pool = pool_of(100)
    buffer = torch.zeros(1, 1, 200, 1)
    ids = np.array(text(0))
    rows = [(buffer[:, :, :40], torch.zeros(1, 1, 40, 1))]
    view = Entry.of_rows("here", ids, rows, np.zeros(40, np.uint8), direction(0))
    assert pool.add(view, copy=copy)
    kept = view.segments[0].rows.layer(0)
    assert kept[0].untyped_storage().nbytes() == 40 * 4
    assert pool.stats().bytes == 40 * BYTES_PER_TOKEN


def test_a_copy_is_the_pools_own() -> None:
    pool = pool_of()
    for copy in (False, True):
        each = entry(text(copy))
        given = each.segments[0].rows.layer(0)[0]
        pool.add(each, copy=copy)
        assert (each.segments[0].rows.layer(0)[0].data_ptr() == given.data_ptr()) is not copy


@pytest.mark.parametrize(("n", "kept"), [(31, False), (32, True)])
def test_short_prompts_are_not_kept(n: int, kept: bool) -> None:
    pool = pool_of(min_tokens=32)
    assert pool.add(entry(text(0, n))) == kept
    assert (pool.stats().entries, pool.stats().rejected) == (kept, not kept)


# --- one entry for what another continues ------------------------------------------------------------------------


def test_the_longer_entry_serves_for_both() -> None:
    pool = pool_of()
    short, long = entry(text(0)[:33]), entry(text(0))
    assert pool.add(short)
    assert pool.add(long)
    assert holds(pool, long)
    assert pool.stats().entries == 1
    assert not pool.add(short)
    assert pool.stats().entries == 1
    assert pool.stats().evictions == 0, "nothing was lost"


def test_an_entry_that_parts_ways_stays() -> None:
    pool = pool_of()
    one, other = entry(text(0)), entry([*text(0)[:36], 7, 7, 7, 7])
    pool.add(one)
    pool.add(other)
    assert holds(pool, one)
    assert holds(pool, other)


def test_covered_entries_are_as_if_just_used() -> None:
    pool = pool_of(100)
    one, two = entry(text(1)), entry(text(2))
    pool.add(one)
    pool.add(two)
    pool.add(entry(text(1)[:35]))
    pool.add(entry(text(3)))
    assert [holds(pool, each) for each in (one, two)] == [True, False]


def test_an_approximate_entry_does_not_replace_an_exact_one() -> None:
    pool = pool_of()
    exact, approximate = entry(text(0)[:36]), entry(text(0), approximate=[0] * 20 + [1] * 20)
    pool.add(exact)
    pool.add(approximate)
    assert holds(pool, approximate)
    found = pool.longest_prefix("here", np.array(text(0)), 0)
    assert found is not None
    assert (found[0], found[1]) == (exact, 36)


def test_of_two_approximate_entries_the_one_of_the_smaller_account_stays() -> None:
    pool = pool_of()
    lax, strict, longer = (
        entry(text(0)[:n], approximate=True, account=account) for n, account in ((36, 0.15), (36, 0.02), (40, 0.15))
    )
    assert pool.add(lax)
    assert pool.add(strict), "the same text in better rows"
    assert not pool.add(lax)
    assert pool.add(longer)
    assert pool.stats().entries == 2, "it covers what the longer one adds to, and is not covered by it"
    tokens = np.array(text(0))
    assert pool.longest_prefix("here", tokens, np.inf) == (longer, 40)
    assert pool.longest_prefix("here", tokens, 0.15) == (longer, 40)
    assert pool.longest_prefix("here", tokens, 0.05) == (strict, 36)
    assert pool.longest_prefix("here", tokens, 0.01) is None
    assert pool.add(entry(text(0), approximate=True, account=0.02))
    assert pool.stats().entries == 1


def test_an_account_says_nothing_of_lossless_rows() -> None:
    pool = pool_of(min_tokens=1)
    half = entry(text(0), approximate=[0] * 20 + [1] * 20, account=0.15)
    pool.add(half)
    assert pool.longest_prefix("here", np.array(text(0)), 0.02) == (half, 20)
    assert not pool.add(entry(text(0)[:20])), "lossless either way"


def test_of_equally_long_prefixes_the_least_approximate_serves() -> None:
    for order in (1, -1):
        pool = pool_of()
        begun = text(0)
        for end, account in [(1, 0.15), (2, 0.02), (3, 0.0), (4, 0.05)][::order]:
            pool.add(entry([*begun, *text(end)], approximate=account > 0, account=account))
        found = pool.longest_prefix("here", np.array(begun), 1.0)
        assert found is not None
        assert (found[1], found[0].usable(0.0)) == (40, 80)


def test_an_exact_entry_replaces_an_approximate_one() -> None:
    pool = pool_of()
    pool.add(entry(text(0)[:36], approximate=True))
    exact = entry(text(0))
    pool.add(exact)
    assert holds(pool, exact)
    assert pool.stats().entries == 1


@pytest.mark.parametrize("begins", [(4, 4), ((2, 0.05), (1, 0.02))], ids=["same", "neither is better"])
@pytest.mark.parametrize("n", [12, 40], ids=["less than a block", "blocks"])
def test_the_same_tokens_are_one_entry(begins: tuple, n: int) -> None:
    """The books must balance: what is counted is what is held, and clearing leaves an empty pool."""
    pool = pool_of(min_tokens=1, block_tokens=16)
    for seed, begin in enumerate(begins):
        quarter, account = begin if isinstance(begin, tuple) else (begin, 0.0)
        approximate = np.arange(n) >= quarter * (n // 4)
        pool.add(entry(text(0, n), approximate=approximate, account=account, seed=seed))
    assert pool.stats().bytes == n * BYTES_PER_TOKEN
    assert books_balance(pool)
    assert len(pool.similar("here", direction(0))) == 1
    assert pool.clear() == 1
    assert books_balance(pool)
    assert pool._entries.namespaces == {}


def test_filling_up_with_the_same_short_prompt_evicts_nobody() -> None:
    pool = pool_of(100, min_tokens=1)
    first = entry(text(0))
    pool.add(first)
    for _ in range(20):
        pool.add(entry(text(1, 10)))
    assert holds(pool, first)


# --- prefixes ----------------------------------------------------------------------------------------------------


@st.composite
def branches(draw: st.DrawFn) -> np.ndarray:
    """The beginning of one trunk, then something of its own."""
    own = draw(st.lists(st.integers(0, 2), max_size=4))
    return np.concatenate((TRUNK[: draw(st.integers(1, len(TRUNK)))], np.array(own, np.int64)))


TRUNK = np.arange(20) % 3


@given(st.lists(st.tuples(branches(), st.integers(0, 24)), max_size=6), branches(), st.integers(1, 4))
@settings(deadline=None)
def test_longest_prefix_is_the_longest(kept: list[tuple[np.ndarray, int]], query: np.ndarray, block: int) -> None:
    """Against brute force, with rows that may not serve; a prefix of less than one block is not found."""
    pool = pool_of(min_tokens=1, block_tokens=block)
    entries = [entry(body, approximate=np.arange(len(body)) >= deep) for body, deep in kept]
    for each in entries:
        pool.add(each)
    for most in (0.0, 0.05):
        best = max((min(common_prefix(each.tokens, query), each.usable(most)) for each in entries), default=0)
        found = pool.longest_prefix("here", query, most)
        length = found[1] if found else 0
        assert length == (best if best >= block else 0)
        if found:
            assert found[0].tokens[:length].tolist() == query[:length].tolist()
            assert most or not found[0].approximate[:length].any()


def test_approximate_rows_do_not_hide_lossless_ones() -> None:
    """The rows of the entry that agrees longest may not serve; a shorter one that is not must be found."""
    pool = pool_of()
    shared = text(0, 64)
    copy = entry(shared + text(1), approximate=[0] * 16 + [1] * 88)
    original = entry(shared[:48] + text(2))
    pool.add(copy)
    pool.add(original)
    found = pool.longest_prefix("here", np.array(shared + text(3)), 0)
    assert found is not None
    assert (found[0], found[1]) == (original, 48)


@pytest.mark.parametrize("most", [0.0, 0.05, 0.15])
def test_seventy_prompts_that_begin_alike_hide_none_that_may_serve(most: float) -> None:
    """They agree longer, in rows that may not serve, and were stored later."""
    pool = pool_of(min_tokens=1)
    shared, query = text(0, 100), np.array([*text(0, 100), *text(1)])
    serves = entry([*shared[:80], *text(2)], approximate=most > 0, account=most)
    pool.add(serves)
    for seed in range(70):
        pool.add(entry([*shared, *text(3 + seed)], approximate=np.arange(140) >= 20, account=0.2))
    found = pool.longest_prefix("here", query, most)
    assert found == (serves, 80)
    pool.discard([serves])
    found = pool.longest_prefix("here", query, most)
    assert found is not None
    assert found[1] == 20, "the lossless rows that all of them begin with"


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_longest_prefix_against_all_entries_that_are_there(data: st.DataObject) -> None:
    """Dozens that begin alike, of whatever accounts; some are healed, some have left."""
    numbers = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    pool, most = pool_of(min_tokens=1, block_tokens=4), data.draw(st.sampled_from([0.0, 0.04, 0.5, np.inf]))
    for seed in range(data.draw(st.integers(1, 120))):
        body = np.concatenate((TRUNK[: numbers.integers(4, 21)], numbers.integers(0, 3, numbers.integers(1, 6))))
        n, account = len(body), float(numbers.choice([0.01, 0.03, 0.05, 0.2, np.inf]))
        each = entry(body, approximate=np.arange(n) >= numbers.integers(0, n + 3), account=account, seed=seed)
        if numbers.random() < 0.3:
            each.steady = int(numbers.integers(0, each.usable(0.0) + 1))
        pool.add(each)
    for each in list(pool._entries.chosen(None)):
        if numbers.random() < 0.2:
            pool.discard([each])
        elif each.approximates and numbers.random() < 0.3:
            heal(pool, each, steady=None if numbers.random() < 0.5 else len(each) // 4 * 4)
    query = np.concatenate((TRUNK[: numbers.integers(4, 21)], numbers.integers(0, 3, 3)))
    there = list(pool._entries.chosen(None))
    best = max((each.usable_prefix(query, most) for each in there), default=0)
    found = pool.longest_prefix("here", query, most)
    assert (found[1] if found else 0) == (best if best >= 4 else 0)
    if found:
        assert found[0].usable_prefix(query, most) == best
        ways = [each for each in there if each.usable_prefix(query, most) == best]
        assert _account_of(found[0], best) == min(_account_of(each, best) for each in ways)


def _account_of(each: Entry, rows: int) -> float:
    """Of its leading rows."""
    return each.account if rows > each.usable(0.0) else 0.0


def heal(pool: ReferencePool, each: Entry, steady: int | None) -> None:
    """As the healing does, with rows that are the entry's own."""
    copy = pool.second_copy(each, len(each))
    assert copy is not None
    copy.rows = Taken(rows_of(each))
    assert pool.heal(copy, 0, steady)


@dataclass
class Taken:
    """Rows in memory."""

    rows: list[tuple[torch.Tensor, torch.Tensor]]

    def take(self, start: int, end: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(keys[:, :, start:end].clone(), values[:, :, start:end].clone()) for keys, values in self.rows]


def test_what_has_expired_hides_nothing() -> None:
    pool = pool_of(min_tokens=1)
    shared = text(0, 64)
    kept = entry([*shared[:48], *text(1)])
    pool.add(kept)
    for seed in range(70):
        pool.add(late := entry([*shared, *text(2 + seed)]))
        late.expires = 1.0
    assert pool.longest_prefix("here", np.array([*shared, 5]), 0) == (kept, 48)


# --- similarity --------------------------------------------------------------------------------------------------


def test_as_many_neighbours_as_configured() -> None:
    pool = pool_of(candidates=3)
    for seed in range(6):
        pool.add(entry(text(seed), seed=seed))
    assert len(pool.similar("here", direction(2))) == 3
    best, similarity = pool.similar("here", direction(2))[0]
    assert best.tokens.tolist() == text(2)
    assert similarity == pytest.approx(1, abs=1e-5)


# --- the whole ---------------------------------------------------------------------------------------------------


def test_stats_and_clear_by_namespace() -> None:
    pool = pool_of(200)
    pool.add(entry(text(0), "a"))
    pool.add(entry(text(1, 60), "b"))
    assert (pool.stats("a").entries, pool.stats("a").tokens) == (1, 40)
    assert pool.stats().tokens == 100
    assert pool.stats().max_bytes == 200 * BYTES_PER_TOKEN
    assert pool.stats("nobody").entries == 0
    assert pool.clear("nobody") == 0
    assert pool.clear("a") == 1
    assert (pool.stats().entries, pool.stats("b").entries) == (1, 1)
    assert pool.clear() == 1
    assert pool.stats().bytes == 0


def test_touching_what_is_gone_does_nothing() -> None:
    pool = pool_of()
    pool.touch([entry(text(0))])
    assert pool.stats().entries == 0


def test_many_threads() -> None:
    pool = pool_of(400)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for step in range(30):
                each = entry(text(seed * 7 + step % 5), namespace=str(seed % 3), seed=step)
                pool.add(each)
                pool.longest_prefix(each.namespace, each.tokens, 0)
                pool.similar(each.namespace, each.embedding[0])
                pool.touch([each])
                if step % 10 == 9:
                    pool.clear(each.namespace)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    stats = pool.stats()
    assert stats.bytes <= stats.max_bytes
    assert books_balance(pool)
    pool.clear()
    assert books_balance(pool)
    assert pool._tiers.used["device"] == 0
