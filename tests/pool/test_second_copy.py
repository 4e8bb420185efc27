"""The pool's part of healing: room for a second copy, which takes the place of an entry's rows if it is still there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pooled import BYTES_PER_TOKEN, books_balance, entry, holds, pool_at, pool_of, rows_of, text
from semshare_core.pool import Entry, ReferencePool


class Fresh:
    """Rows as :func:`pooled.entry` makes them, of so many tokens."""

    def __init__(self, tokens: list[int]) -> None:
        self.rows = (torch.tensor(tokens).float(), torch.arange(len(tokens)).float())

    def take(self, start: int, end: int) -> list[tuple[Tensor, Tensor]]:
        keys, values = (rows[None, None, start:end, None].clone() for rows in self.rows)
        return [(keys, values)]


def half_approximate(tokens: list[int], namespace: str = "here") -> Entry:
    """Its approximate rows are none of its tokens."""
    kept = entry(tokens, namespace, [n >= len(tokens) // 2 for n in range(len(tokens))])
    keys, _ = kept.segments[0].rows.layer(0)
    keys[:, :, len(tokens) // 2 :] = -1
    return kept


def healed(pool: ReferencePool, kept: Entry, start: int | None = None) -> bool:
    copy = pool.second_copy(kept, len(kept))
    assert copy is not None
    copy.rows = Fresh(kept.tokens.tolist())
    return pool.heal(copy, len(kept) // 2 if start is None else start, None)


def test_lossless_rows_take_the_place_of_approximate_ones() -> None:
    pool, kept = pool_of(), half_approximate(text(1))
    assert pool.add(kept)
    ((keys, _),) = rows_of(kept)
    assert keys.flatten().tolist() != kept.tokens.tolist(), "the test would see nothing"
    assert pool.stats().approximate == 1
    assert healed(pool, kept)
    assert holds(pool, kept)
    assert kept.account == 0
    assert pool.longest_prefix("here", kept.tokens, 0) == (kept, len(kept))
    stats = pool.stats()
    assert (stats.approximate, stats.healed, stats.healed_tokens) == (0, 1, 20)
    assert pool.stats("elsewhere").healed == 0
    assert books_balance(pool)


def test_an_index_forgets_healed_entries_that_leave() -> None:
    pool, others = pool_of(), [half_approximate(text(seed)) for seed in range(1, 4)]
    for kept in others:
        assert pool.add(kept)
        assert healed(pool, kept)
    indexes = pool._entries.namespaces["here"].of("")
    assert indexes is not None
    assert len(indexes.approximate_runs) == 0
    pool.discard(others[:-1])
    assert (len(indexes.runs), len(indexes.approximate_runs)) == (1, 0)
    assert pool.sharing("here", others[-1].tokens, 4) == [others[-1]]


def test_an_entry_that_is_healed_while_a_lookup_reads_it_keeps_all_its_rows() -> None:
    class HealedMeanwhile(Entry):
        @property
        def account(self) -> float:  # type: ignore[override]
            before = self.__dict__["account"]
            if before and "segments" in self.__dict__ and "id" in self.__dict__ and self.reading:
                self.reading = False
                self.become_lossless(self.segments, None)
            return float(before)

        @account.setter
        def account(self, value: float) -> None:
            self.__dict__["account"] = value

        reading = False

    plain = half_approximate(text(1))
    kept = HealedMeanwhile("here", plain.tokens, plain.segments, plain.approximate, plain.embedding, plain.account)
    kept.reading = True
    assert kept.usable(0.0) == 20, "as it was when the look-up began, and not none at all"
    assert kept.usable(0.0) == 40


def test_the_beginning_stays_shared() -> None:
    pool = pool_of()
    lossless, kept = entry(text(1)), half_approximate(text(1)[:20] + text(2)[:20])
    pool.add(lossless)
    pool.add(kept)
    shared = kept.segments[0]
    assert shared in lossless.segments
    uses = kept.segments[-1].uses
    pool.touch([kept])
    assert healed(pool, kept)
    assert kept.segments[0] is shared
    assert shared in lossless.segments
    assert kept.segments[-1].uses == uses + 1
    assert holds(pool, kept)
    assert holds(pool, lossless)
    assert books_balance(pool)


@pytest.mark.parametrize("way", ["cleared", "discarded", "evicted", "replaced"])
def test_what_has_left_does_not_come_back(way: str) -> None:
    pool, kept = pool_of(), half_approximate(text(1))
    pool.add(kept)
    copy = pool.second_copy(kept, 40)
    assert copy is not None
    copy.rows = Fresh(kept.tokens.tolist())
    assert pool._tiers.used["device"] == 80 * BYTES_PER_TOKEN
    better = entry(text(1))
    if way == "cleared":
        pool.clear()
    elif way == "discarded":
        pool.discard([kept])
    elif way == "evicted":
        with pool._lock:
            pool._entries.evict(kept.segments[0])
    else:
        assert pool.add(better)
    assert copy.rows is None, "its rows left memory with the entry"
    assert not pool.heal(copy, 20, None)
    assert pool.stats().entries == (way == "replaced")
    assert books_balance(pool)
    if way == "replaced":
        assert holds(pool, better)


def test_the_copy_counts_and_makes_room_and_pins_stay() -> None:
    pool = pool_of(tokens=120)
    old, kept, pinned = entry(text(1)), half_approximate(text(2)), entry(text(3), pinned=True)
    for each in (old, kept, pinned):
        assert pool.add(each)
    copy = pool.second_copy(kept, 40)
    assert copy is not None
    assert not holds(pool, old), "it made room"
    assert holds(pool, pinned)
    assert pool._tiers.used["device"] == 120 * BYTES_PER_TOKEN
    assert pool.second_copy(kept, 40) is not None, "the first one makes room for the second"
    assert copy.given_up
    with pool._lock:
        pool._entries.pin(kept)
    assert pool.second_copy(kept, 60) is None
    assert pool.second_copy(old, 1) is None, "it is not there"


def test_a_forked_child_whose_pool_begins_anew_gives_up_a_copy_of_before() -> None:
    """The pool's locks were held for too long, so it begins anew; healing gives up its copy behind that."""
    pool = pool_of()
    kept = entry(text(0), approximate=True)
    assert pool.add(kept)
    copy = pool.second_copy(kept, len(kept))
    assert copy is not None
    pool._begin(None)
    pool.give_up(copy)
    assert copy.given_up
    assert books_balance(pool)


def test_a_new_entry_has_the_room_of_a_copy_when_nothing_else_can_go() -> None:
    pool = pool_of(tokens=100)
    kept = half_approximate(text(1))
    pool.add(kept)
    with pool._lock:
        pool._entries.pin(kept)
    copy = pool.second_copy(kept, 40)
    assert copy is not None
    copy.rows = Fresh(kept.tokens.tolist())
    new = entry(text(2))
    assert pool.add(new)
    assert copy.rows is None
    assert holds(pool, new)
    assert books_balance(pool)


def test_a_namespace_has_no_more_than_its_budget() -> None:
    pool = pool_of(namespace_bytes=70 * BYTES_PER_TOKEN)
    kept, other = half_approximate(text(1)), entry(text(2), "other")
    pool.add(kept)
    pool.add(other)
    assert pool.second_copy(kept, 40) is None
    assert pool.stats("here").entries == 1
    assert books_balance(pool)
    roomy = pool_of(namespace_bytes=80 * BYTES_PER_TOKEN)
    roomy.add(kept := half_approximate(text(1)))
    assert healed(roomy, kept)
    assert books_balance(roomy)


def test_the_folder_has_the_new_rows_and_not_the_old_ones(tmp_path: Path) -> None:
    pool, kept = pool_at(tmp_path), half_approximate(text(1))
    lossless = entry(text(1)[:20] + text(2)[:20])
    pool.add(lossless)
    pool.add(kept)
    pool.flush()
    before = {path.name for path in (tmp_path / "rows").iterdir()}
    assert healed(pool, kept)
    pool.flush()
    after = {path.name for path in (tmp_path / "rows").iterdir()}
    assert len(after) == len(before)
    assert len(after - before) == 1
    assert books_balance(pool)
    pool.close()
    again = pool_at(tmp_path)
    [found] = [each for each in again._entries.chosen(None) if each.id == kept.id]
    assert not found.approximates
    ((keys, _),) = rows_of(found)
    assert keys.flatten().tolist() == kept.tokens.tolist()
    again.close()


def test_what_was_not_written_yet_is_written_healed(tmp_path: Path) -> None:
    pool, kept = pool_at(tmp_path), half_approximate(text(1))
    assert pool._writer is not None
    with pool._tiers._storing:  # the writer waits
        pool.add(kept)
        assert healed(pool, kept)
    pool.flush()
    assert len(list((tmp_path / "rows").iterdir())) == 1
    pool.close()
    again = pool_at(tmp_path)
    assert again.stats().approximate == 0
    assert again.stats().entries == 1
    again.close()
