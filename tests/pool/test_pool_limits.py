"""Who may stay, and for how long: value, pins, lifetimes, quotas; and the namespace that serves all."""

from __future__ import annotations

import time

import pytest

from pooled import BYTES_PER_TOKEN, books_balance, entry, holds, pool_of, text
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.errors import ConfigError
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)


# --- value -------------------------------------------------------------------------------------------------------


def test_what_serves_often_stays_and_ages_when_it_no_longer_does() -> None:
    pool = pool_of(120)
    often = entry(text(0))
    pool.add(often)
    for _ in range(5):
        pool.touch([often])
    for seed in range(1, 5):
        pool.add(entry(text(seed)))
    assert holds(pool, often), "four others came and went"
    for seed in range(5, 40):
        pool.add(entry(text(seed)))
    assert not holds(pool, often)


def test_of_equals_the_dearer_rows_stay() -> None:
    """Later tokens cost more to compute again: of two entries used alike, the longer one is worth more a byte."""
    pool = pool_of(10_000, min_tokens=1)
    long, short = entry(text(0, 8000)), entry(text(1, 1000))
    pool.add(long)
    pool.add(short)
    pool.add(entry(text(2, 1001)))
    assert holds(pool, long)
    assert not holds(pool, short)


# --- pins --------------------------------------------------------------------------------------------------------


def test_a_pinned_entry_is_not_evicted() -> None:
    pool = pool_of(100)
    pinned = entry(text(0), pinned=True)
    pool.add(pinned)
    for seed in range(1, 9):
        pool.add(entry(text(seed)))
    assert holds(pool, pinned)
    assert not pool.add(entry(text(9, 70))), "there is no room beside it"
    assert pool.stats().entries == 2, "and nothing was lost in finding that out"
    assert pool.clear() == 2
    assert books_balance(pool)


def test_a_pin_holds_what_is_pinned_and_not_what_continues_it() -> None:
    pool = pool_of(140, min_tokens=1)
    pinned, longer = entry(text(0, 64), pinned=True), entry(text(0, 64) + text(1, 30))
    pool.add(pinned)
    pool.add(longer)
    assert pool.stats().entries == 2
    assert pool.stats().bytes == 94 * BYTES_PER_TOKEN
    pool.add(entry(text(2, 60)))
    assert holds(pool, pinned)
    assert not holds(pool, longer)


@pytest.mark.parametrize("longer", [0, 10])
def test_what_is_there_already_can_be_pinned(longer: int) -> None:
    pool = pool_of(100)
    pool.add(entry(text(0, 40 + longer)))
    pool.add(entry(text(0, 40 + longer)[:40], pinned=True))
    for seed in range(1, 9):
        pool.add(entry(text(seed)))
    found = pool.longest_prefix("here", entry(text(0, 40 + longer)).tokens, 0)
    assert found is not None
    assert found[1] == 40
    assert books_balance(pool)


def test_pins_of_the_engine() -> None:
    room = (len(TEXT) + 200) * 1024
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(max_bytes=room))
    engine.warm([TEXT], pin=True)
    for number in range(4):
        engine.generate(f"{number}" * 150, max_new_tokens=2)
    assert engine.prefill(TEXT + "?", reuse="exact").report.prefix_tokens == len(TEXT)
    assert engine.pool.stats().evictions == 3


# --- lifetime ----------------------------------------------------------------------------------------------------


def test_what_is_too_old_serves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(ttl_seconds=10)
    now = time.time()
    clock = [now]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    old, pinned = entry(text(0)), entry(text(1), pinned=True)
    pool.add(old)
    pool.add(pinned)
    clock[0] = now + 6
    young = entry(text(2))
    pool.add(young)
    assert [holds(pool, each) for each in (old, pinned, young)] == [True, True, True]
    clock[0] = now + 11
    assert [holds(pool, each) for each in (old, pinned, young)] == [False, True, True]
    assert {each.id for each, _ in pool.similar("here", old.embedding)} == {pinned.id, young.id}
    assert pool.sharing("here", old.tokens, 4) == []
    assert pool.stats().entries == 2
    assert pool.stats().evictions == 0
    clock[0] = now + 20
    assert pool.stats().entries == 1


def test_what_comes_again_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(ttl_seconds=10)
    now = time.time()
    clock = [now]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    first = entry(text(0))
    pool.add(first)
    clock[0] = now + 6
    assert not pool.add(entry(text(0)[:36]))
    clock[0] = now + 12
    assert holds(pool, first)
    clock[0] = now + 17
    assert not holds(pool, first)


# --- quotas ------------------------------------------------------------------------------------------------------


def test_nobody_takes_more_than_its_quota() -> None:
    pool = pool_of(1000, namespace_bytes=100 * BYTES_PER_TOKEN)
    theirs = entry(text(99), "there")
    pool.add(theirs)
    for seed in range(10):
        assert pool.add(entry(text(seed)))
    assert (pool.stats("here").entries, pool.stats("here").evictions) == (2, 8)
    assert holds(pool, theirs)
    assert not pool.add(entry(text(20, 101)))
    assert pool.stats("here").entries == 2, "what cannot fit drives nothing out"
    assert books_balance(pool)


def test_what_is_shared_counts_once_in_a_quota() -> None:
    pool = pool_of(1000, namespace_bytes=100 * BYTES_PER_TOKEN, min_tokens=1)
    for seed in range(1, 5):
        pool.add(entry(text(0, 60) + text(seed, 10)))
    assert (pool.stats().entries, pool.stats().evictions) == (4, 0)


def test_what_a_namespace_lost_is_its_own_affair() -> None:
    pool = pool_of(100)
    pool.add(entry(text(0), "a"))
    for seed in range(1, 4):
        pool.add(entry(text(seed), "b"))
    pool.add(entry(text(9)[:3], "b"))
    assert (pool.stats("a").evictions, pool.stats("b").evictions) == (1, 1)
    assert (pool.stats("a").rejected, pool.stats("b").rejected) == (0, 1)
    assert pool.stats("c").evictions == 0
    assert (pool.stats().evictions, pool.stats().rejected) == (2, 1)


# --- the public namespace ----------------------------------------------------------------------------------------


def test_the_public_namespace_serves_all_and_tells_nothing_back() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(public_namespace="all"))
    engine.warm([TEXT], namespace="all")
    for namespace in ("a", "b", None):
        report = engine.generate(TEXT + f"\n\nMy secret is {namespace}.", max_new_tokens=2, namespace=namespace).report
        assert report.prefix_tokens >= len(TEXT)
        moved = "Once more. " + "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhich?"
        assert engine.prefill(moved, reuse="high", namespace=namespace, store=False).report.outcome == "semantic"
    public = engine.prefill(TEXT + "\n\nMy secret is a.", reuse="exact", namespace="all", store=False).report
    assert public.prefix_tokens == len(TEXT)
    assert engine.pool.stats("all").entries == 1
    other = engine.prefill(TEXT + "\n\nMy secret is a.", reuse="exact", namespace="b", store=False).report
    assert other.prefix_tokens == len(TEXT + "\n\nMy secret is ")


@pytest.mark.parametrize("call", ["generate", "stream", "prefill"])
def test_calls_do_not_write_to_the_public_namespace(call: str) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(public_namespace="all"))
    with pytest.raises(ConfigError, match="public"):
        list(getattr(engine, call)(TEXT, namespace="all")) if call == "stream" else getattr(engine, call)(
            TEXT, namespace="all"
        )
    assert engine.pool.stats().entries == 0


def test_without_a_public_namespace_no_name_serves_all() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    for name in ("public", "all", "default"):
        engine.warm([TEXT], namespace=name)
    assert engine.prefill(TEXT, reuse="exact", namespace="mine").report.outcome == "miss"


@pytest.mark.parametrize(
    "settings",
    [{"public_namespace": ""}, {"ttl_seconds": 0}, {"namespace_bytes": -1}, {"read_only": True}, {"host_bytes": -1}],
)
def test_limits_that_cannot_be(settings: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        PoolConfig(**settings)
