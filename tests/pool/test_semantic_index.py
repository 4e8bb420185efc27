"""Search over embeddings, against brute force: few and many rows, one and several vectors an entry, a lost index."""

from __future__ import annotations

import threading
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semshare_core.errors import ConfigError
from semshare_core.pool.indexes import vector_rows
from semshare_core.pool.indexes.semantic_index import SemanticIndex

DIM = 16


def unit(seed: int, rows: int = 1, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def likeness(held: np.ndarray, asked: np.ndarray) -> float:
    """The definition."""
    return float(np.mean([max((1 + float(row @ query)) / 2 for row in held) for query in asked]))


def ranked(held: dict[str, np.ndarray], asked: np.ndarray) -> list[tuple[str, float]]:
    return sorted(((name, likeness(rows, asked)) for name, rows in held.items()), key=lambda item: (-item[1], item[0]))


def filled(count: int, rows: int = 1) -> tuple[SemanticIndex, dict[str, np.ndarray]]:
    index, held = SemanticIndex(), {}
    for number in range(count):
        held[f"{number:04}"] = unit(number, rows)
        index.add(f"{number:04}", held[f"{number:04}"])
    return index, held


def settle(index: SemanticIndex) -> None:
    """Wait for the index that is being built."""
    if index._builder is not None:
        index._builder.join()


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortlists from 100 rows on."""
    monkeypatch.setattr(vector_rows, "FLAT_ROWS", 100)


changes = st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(0, 40)), max_size=40)


@settings(deadline=None)
@given(changes, st.integers(1, 3), st.integers(1, 6), st.integers(0, 99))
def test_exact_while_few(changes: list[tuple[bool, int, int]], queries: int, k: int, seed: int) -> None:
    """Whatever came and went before, with searches in between; names return with other vectors."""
    index, held = SemanticIndex(), {}
    for step, (adding, rows, which) in enumerate(changes):
        name = str(which)
        if adding and name not in held:
            held[name] = unit(step, rows)
            index.add(name, held[name])
        elif not adding and held:
            name = sorted(held)[which % len(held)]
            del held[name]
            index.remove(name)
        found, expected = index.search(unit(1000 + seed, queries), k), ranked(held, unit(1000 + seed, queries))[:k]
        assert [name for name, _ in found] == [name for name, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-5)
    assert len(index) == len(held)


def test_the_best_mean_need_not_lead_for_any_segment() -> None:
    """Second for both halves of the prompt and first for the whole: the search must widen until it is found."""
    east, north = np.eye(DIM, dtype=np.float32)[:2]
    index = SemanticIndex()
    index.add("both", np.stack((0.9 * east + np.sqrt(0.19) * unit(0)[0], 0.9 * north)).astype(np.float32))
    for number in range(30):
        index.add(f"east{number}", east)
        index.add(f"north{number}", north)
    assert index.search(np.stack((east, north)), 1)[0][0] == "both"


def test_one_vector_may_come_without_its_axis() -> None:
    index = SemanticIndex()
    index.add("a", unit(1)[0])
    index.add("b", unit(2))
    assert index.search(unit(1)[0], 2) == index.search(unit(1), 2)
    assert index.search(unit(1)[0], 1) == [("a", pytest.approx(1, abs=1e-5))]


def test_nothing_is_like_an_empty_index() -> None:
    index = SemanticIndex()
    assert index.search(unit(0), 3) == []
    index.add("a", unit(0))
    index.remove("a")
    assert index.search(unit(0), 3) == []
    index.add("b", unit(0, dim=8))
    assert [name for name, _ in index.search(unit(0, dim=8), 3)] == ["b"], "an emptied index takes another model's"


def test_another_models_vectors_are_refused() -> None:
    index = SemanticIndex()
    index.add("a", unit(0))
    with pytest.raises(ConfigError, match=r"8 dimensions.*have 16"):
        index.add("b", unit(0, dim=8))
    with pytest.raises(ConfigError, match="8 dimensions"):
        index.search(unit(0, dim=8), 1)
    assert len(index) == 1


# --- many --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_are_many")
@pytest.mark.parametrize("rows", [1, 2])
def test_many_rows_are_searched_by_shortlist(rows: int) -> None:
    """Nearly all of the best are found, and what is found has its exact likeness."""
    index, held = filled(400 // rows, rows)
    index.search(unit(0), 1)
    settle(index)
    index.rebuild()
    assert index._rows is not None
    assert not index._rows.exact
    hits = 0
    for seed in range(1000, 1020):
        asked = unit(seed, rows)
        found = index.search(asked, 8)
        assert all(value == pytest.approx(likeness(held[name], asked), abs=1e-5) for name, value in found)
        hits += len({name for name, _ in found} & {name for name, _ in ranked(held, asked)[:8]})
    assert hits > 0.9 * 20 * 8


@pytest.mark.usefixtures("few_are_many")
def test_it_is_built_anew_when_it_has_grown_or_shrunk() -> None:
    index, held = filled(60)
    index.search(unit(0), 1)
    built = [index._rows]
    for number in range(60, 600):
        held[f"{number:04}"] = unit(number)
        index.add(f"{number:04}", held[f"{number:04}"])
        settle(index)
        if index._rows is not built[-1]:
            built.append(index._rows)
    assert 3 <= len(built) <= 5, "once for the shortlists, and then for each doubling"
    for name in list(held)[:400]:
        index.remove(name)
        del held[name]
        settle(index)
    assert index._rows is not None
    assert len(index._rows) < 300, "removed rows do not stay for ever"
    found = index.search(unit(550), 200)
    assert found[0] == ("0550", pytest.approx(1, abs=1e-5))
    assert {name for name, _ in found} <= set(held)


@pytest.mark.usefixtures("few_are_many")
def test_what_changes_while_it_is_built_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder is held up; meanwhile entries come and go, and searches are answered."""
    index, _ = filled(150)
    index.search(unit(0), 1)
    settle(index)
    reached, go_on = threading.Event(), threading.Event()
    own = vector_rows.VectorRows

    def slow(entries: Any) -> vector_rows.VectorRows:
        reached.set()
        assert go_on.wait(30)
        return own(entries)

    monkeypatch.setattr("semshare_core.pool.indexes.semantic_index.VectorRows", slow)
    before = index._rows
    builder = threading.Thread(target=index.rebuild)
    builder.start()
    assert reached.wait(30)
    index.add("new", unit(5000))
    index.add("brief", unit(6000))
    index.remove("brief")
    index.remove("0003")
    index.add("0003", unit(7000))
    index.remove("0004")

    def check() -> None:
        assert index.search(unit(5000), 1)[0] == ("new", pytest.approx(1, abs=1e-5))
        assert index.search(unit(7000), 1)[0] == ("0003", pytest.approx(1, abs=1e-5))
        for seed in (6000, 3, 4):
            assert index.search(unit(seed), 1)[0][1] < 0.99

    check()
    go_on.set()
    builder.join()
    assert index._rows is not before
    check()


def test_threads() -> None:
    """Searches, additions and removals at once: what stays is found, and nothing raises."""
    index, held = filled(40)
    errors: list[BaseException] = []

    def work(own: int) -> None:
        try:
            for step in range(60):
                index.add(f"{own}-{step}", unit(10_000 * own + step))
                name = f"{step % 40:04}"
                assert index.search(held[name], 1)[0][0] == name
                if step % 3:
                    index.remove(f"{own}-{step}")
                if step % 20 == 0:
                    index.rebuild()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number + 1,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(index) == 40 + 6 * 20


# --- FAISS fails -------------------------------------------------------------------------------------------------


class _Lost:
    """An index of which nothing works any more."""

    d = DIM

    def add(self, *given: Any) -> None:
        raise RuntimeError("lost")

    search = add


def test_a_lost_index_is_built_anew() -> None:
    index, held = filled(50)
    expected = index.search(unit(7), 5)
    assert index._rows is not None
    index._rows._index = _Lost()
    assert index.search(unit(7), 5) == expected
    index._rows._index = _Lost()
    index.add("more", unit(999))
    assert index.search(unit(999), 1)[0][0] == "more"
    assert len(index) == len(held) + 1


def test_what_keeps_failing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = filled(5)
    monkeypatch.setattr(faiss, "IndexFlatIP", lambda dim: _Lost())
    with pytest.raises(RuntimeError, match="lost"):
        index.search(unit(7), 5)


def test_on_a_gpu_all_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our side of it only, with FAISS's CPU index in the GPU's place: this cannot show that a GPU answers."""
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda resources, device, index: index, raising=False)
    monkeypatch.setattr(vector_rows, "_gpu_resources", lambda: None)
    monkeypatch.setattr(vector_rows, "FLAT_ROWS", 20)
    index, held = filled(60)
    index.search(unit(7), 5)
    for name in list(held)[:50]:
        index.remove(name)
        del held[name]
    found = index.search(unit(7), 5)
    settle(index)
    assert [name for name, _ in found] == [name for name, _ in ranked(held, unit(7))[:5]]
    assert index._rows is not None
    assert index._rows.exact


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_are_many")
def test_bytes_are_counted() -> None:
    """The vectors as given and FAISS's copy: as many bytes again while exact, nine bits a dimension beyond."""
    index, held = filled(90)
    assert index.n_bytes == 90 * 4 * DIM
    index.search(unit(0), 1)
    exact = index.n_bytes
    assert 2 * 90 * 4 * DIM < exact < 2 * 90 * 4 * DIM + 90 * 200
    for number in range(90, 180):
        held[str(number)] = unit(number)
        index.add(str(number), held[str(number)])
    index.rebuild()
    settle(index)
    assert index.n_bytes - 180 * 4 * DIM < 180 * (DIM + DIM // 8 + 16 + 200)
    for name in held:
        index.remove(name)
    settle(index)
    assert index.n_bytes == 0
