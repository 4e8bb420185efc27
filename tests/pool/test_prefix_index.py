"""Who agrees on the leading blocks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core.pool.indexes.prefix_index import PrefixIndex, block_marks
from semshare_core.tokens import common_prefix

texts = st.lists(st.integers(0, 1), max_size=12)


@settings(deadline=None)
@given(st.lists(texts, max_size=10), texts, st.integers(1, 4))
def test_whole_blocks_that_agree(kept: list[list[int]], asked: list[int], block: int) -> None:
    index = PrefixIndex(block)
    for number, each in enumerate(kept):
        index.add(str(number), np.array(each, np.int64))
    query = np.array(asked, np.int64)
    agreed = {str(number): common_prefix(np.array(each, np.int64), query) // block for number, each in enumerate(kept)}
    found = index.agreeing(query)
    assert found == {name: blocks for name, blocks in agreed.items() if blocks}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_of_many_the_deepest_and_of_those_the_newest() -> None:
    """A system prompt before all; the few that go on alike come first, however long ago they were added."""
    index = PrefixIndex(4)
    system, turn = np.arange(8), np.arange(100, 112)
    for number in range(3):
        index.add(f"deep{number}", np.concatenate((system, turn[: 4 * number + 4])))
    for number in range(200):
        index.add(str(number), np.concatenate((system, [500 + number] * 8)))
    found = index.agreeing(np.concatenate((system, turn)))
    assert list(found.items())[:4] == [("deep2", 5), ("deep1", 4), ("deep0", 3), ("199", 2)]
    assert len(found) == 64
    assert set(found) == {"deep0", "deep1", "deep2"} | {str(number) for number in range(139, 200)}


def test_what_is_removed_is_forgotten() -> None:
    index = PrefixIndex(4)
    one, other = np.arange(12), np.array([0, 1, 2, 3, 9, 9, 9, 9])
    index.add("one", one)
    index.add("other", other)
    index.remove("one")
    assert index.agreeing(one) == {"other": 1}
    index.remove("other")
    assert index.agreeing(one) == {}
    assert len(index) == 0


def test_texts_without_a_block_come_and_go() -> None:
    index = PrefixIndex(16)
    index.add("short", np.arange(5))
    assert index.agreeing(np.arange(5)) == {}
    index.remove("short")
    assert len(index) == 0


def test_marks_depend_on_order_and_place() -> None:
    """The sums must not be those of the same tokens in another order, nor the Thue-Morse collision of polynomials."""
    word = np.array([bin(number).count("1") % 2 for number in range(2**11)])
    rows = [word, 1 - word, np.sort(word), np.roll(word, 16)]
    last = {int(block_marks(row, 16)[-1]) for row in rows}
    assert len(last) == len(rows)
    many = block_marks(np.random.default_rng(0).integers(0, 2, 200_000), 1)
    assert len(np.unique(many)) == len(many)
