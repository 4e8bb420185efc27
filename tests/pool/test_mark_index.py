"""The index behind prefix and run look-ups, against a dictionary."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core.pool.indexes.mark_index import MarkIndex


def marks(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def found(index: MarkIndex, asked: np.ndarray, limit: int) -> list[list[str]]:
    """Names by position of the mark, as the index returns them."""
    hits = index.holders(asked, limit)
    return [[hits.names[holder] for holder in hits.holder[hits.mark == position]] for position in range(len(asked))]


steps = st.lists(st.one_of(st.sets(st.integers(0, 6)), st.integers(0, 30)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(steps, st.lists(st.integers(0, 7), max_size=6), st.integers(1, 5))
def test_the_newest_holders_of_each_mark(steps: list[set[int] | int], asked: list[int], limit: int) -> None:
    """Additions (sets of marks) and removals (which of those present) in any order; a mark may be asked for twice."""
    index = MarkIndex()
    kept: dict[str, set[int]] = {}
    for number, step in enumerate(steps):
        if isinstance(step, set):
            kept[str(number)] = step
            index.add(str(number), marks(*step))
        elif kept:
            name = sorted(kept)[step % len(kept)]
            del kept[name]
            index.remove(name)
    expected = [[name for name in reversed(kept) if mark in kept[name]][:limit] for mark in asked]
    assert found(index, marks(*asked), limit) == expected
    assert len(index) == len(kept)


def test_marks_of_all_64_bits() -> None:
    index = MarkIndex()
    index.add("a", marks(0, 2**64 - 1, 2**63))
    index.add("b", marks(2**63 - 1, 2**63))
    assert found(index, marks(2**64 - 1, 2**63, 2**63 - 1), 9) == [["a"], ["b", "a"], ["b"]]


def test_those_who_left_do_not_hide_those_who_are_there() -> None:
    """60 of 100 holders of one mark are gone, all of them looked at first; few enough not to be compacted away."""
    index = MarkIndex()
    for number in range(100):
        index.add(str(number), marks(7))
    for number in range(40, 100):
        index.remove(str(number))
    assert found(index, marks(7), 3) == [["39", "38", "37"]]
    assert found(index, marks(7), 99) == [[str(number) for number in range(39, -1, -1)]]


def test_additions_and_removals_without_end_take_no_more_memory() -> None:
    index = MarkIndex()
    sizes = []
    for number in range(4000):
        index.add(str(number), marks(*range(number, number + 10)))
        if number >= 100:
            index.remove(str(number - 100))
            sizes.append(index.n_bytes)
    assert max(sizes[2000:]) <= max(sizes[:2000])
    assert found(index, marks(3999), 20) == [[str(number) for number in range(3999, 3989, -1)]]
    for number in range(3900, 4000):
        index.remove(str(number))
    assert len(index) == 0
    assert index.n_bytes < 1000


def test_twelve_bytes_for_a_mark() -> None:
    index = MarkIndex()
    random = np.random.default_rng(0)
    for number in range(200):
        index.add(str(number), random.integers(0, 2**63, 1000).astype(np.uint64))
    assert index.n_bytes < 12.5 * 200 * 1000


def test_few_levels() -> None:
    """Look-ups visit each; their number must grow with the logarithm of the entries."""
    index = MarkIndex()
    deepest = 0
    for number in range(3000):
        index.add(str(number), marks(*range(number, number + 1 + number % 5)))
        deepest = max(deepest, len(index._state.levels))
    assert deepest <= 8


def test_reading_while_others_write() -> None:
    """Readers take no lock; what was there all along must always be found, and nothing but holders of the mark."""
    index = MarkIndex()
    for number in range(10):
        index.add(f"stays{number}", marks(1, 2))
    done = threading.Event()
    wrong: list[list[str]] = []

    def read() -> None:
        while not done.is_set():
            ones, twos = found(index, marks(1, 2), 1000)
            names = [f"stays{number}" for number in range(9, -1, -1)]
            if [name for name in ones if name in names] != names or twos != names:
                wrong.append(ones)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1500):
        index.add(str(number), marks(1, 3))
        if number >= 30:
            index.remove(str(number - 30))
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_the_limit_holds_over_all_levels() -> None:
    index = MarkIndex()
    for number in range(3):
        index.add(f"large{number}", marks(7, *range(100, 200)))
    index.add("small", marks(7))
    assert len(index._state.levels) == 2
    assert found(index, marks(7), 2) == [["small", "large2"]]
