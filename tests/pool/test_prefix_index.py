"""Who begins as a prompt does, in rows that may serve."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core.pool.indexes.prefix_index import PrefixIndex
from semshare_core.pool.indexes.shared_list import SharedList
from semshare_core.tokens import common_prefix

texts = st.lists(st.sampled_from([0, np.iinfo(np.int64).max]), max_size=12)
accounts = st.sampled_from([0.0, 0.01, 0.1, math.inf])


@settings(deadline=None)
@given(st.lists(st.tuples(texts, accounts), max_size=40), st.data(), texts, accounts, st.integers(1, 4))
def test_the_nearest_are_those_of_a_search_through_all(
    kept: list[tuple[list[int], float]], data: st.DataObject, asked: list[int], most: float, least: int
) -> None:
    index, query, there = PrefixIndex(least), np.array(asked, np.int64), {}
    for number, (text, account) in enumerate(kept):
        name = str(data.draw(st.integers(0, number)))  # that of an earlier one: it takes its place
        index.put(name, np.array(text, np.int64), [(len(text), account)])
        there[name] = number
    for name in data.draw(st.lists(st.sampled_from(sorted(there)), unique=True) if there else st.just([])):
        index.remove(name)
        del there[name]
    assert len(index) == len(there)

    def length(name: str) -> int:
        return common_prefix(np.array(kept[there[name]][0], np.int64), query)

    def account(name: str) -> float:
        return kept[there[name]][1]

    found = [name for name in there if length(name) >= least]
    usable = [name for name in found if account(name) <= most]
    ordered = sorted(usable, key=lambda name: (-length(name), account(name), -there[name]))
    assert list(index.nearest(query, most)) == ordered
    newest = sorted(found, key=lambda name: (-length(name), -there[name]))
    assert index.alike(query, 5) == newest[:5]


def test_of_many_the_deepest_and_of_those_the_newest() -> None:
    """A system prompt before all; the few that go on alike come first, however long ago they were added."""
    index = PrefixIndex(4)
    system, turn = np.arange(8), np.arange(100, 112)
    for number in range(3):
        index.put(f"deep{number}", np.concatenate((system, turn[: 4 * number + 4])), [(12 + 4 * number, 0.0)])
    for number in range(200):
        index.put(str(number), np.concatenate((system, [500 + number] * 8)), [(8, 0.0), (16, 0.5)])
    found = index.alike(np.concatenate((system, turn)), 64)
    assert found == ["deep2", "deep1", "deep0", *(str(number) for number in range(199, 138, -1))]
    first = np.concatenate((system, [500] * 9))
    assert next(index.nearest(first, 0.5)) == "0"
    assert next(index.nearest(first, 0.1)) == "199", "its rows behind the system prompt may not serve"


def test_texts_without_rows_that_are_found_come_and_go() -> None:
    index = PrefixIndex(16)
    index.put("short", np.arange(5), [(5, 0.0)])
    assert index.alike(np.arange(5), 1) == []
    index.remove("short")
    assert len(index) == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=30))
def test_a_shared_list_is_a_list(changes: list[tuple[bool, float]]) -> None:
    shared: SharedList[int] = SharedList()
    plain: list[int] = []
    for number in range(600):  # more than a block
        at = (number * 7) % (len(plain) + 1)
        shared = shared.inserted(at, number)
        plain.insert(at, number)
    before, kept = shared, list(plain)
    for number, (inserts, where) in enumerate(changes):
        at = int(where * (len(plain) - 1))
        shared = shared.inserted(at, number) if inserts else shared.without(at)
        plain[at : at + 1 - inserts] = [number] if inserts else []
    assert list(shared) == plain
    assert [shared[at] for at in range(len(shared))] == plain
    assert list(before) == kept, "what was changed is another list"
    for _ in plain:
        shared = shared.without(len(shared) - 1)
    assert (len(shared), list(shared)) == (0, [])
