"""Namespaces, in pairs: what must hit within one must not be seen from another, in any of the ways to be reused."""

from __future__ import annotations

import numpy as np
import pytest

from same_answer import assert_full, assert_greedy, short_prefixes_serve
from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from tiny_models import DTYPE, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTION = "\n\nWhat is it about?"
TEXT = "\n\n".join(PARAGRAPHS)
TARGETS = {
    "prefix": TEXT + QUESTION,
    "moved": "\n\n".join(PARAGRAPHS[::-1]) + QUESTION,
    "fuzzy": TEXT.replace("e", "a").replace("o", "u") + QUESTION,
}
WAYS = {
    "prefix": "exact",
    "moved": "fast",
    "fuzzy": ReusePolicy(recompute_ratio=0.3, matching="lsh", min_similarity=0),
}
each_way = pytest.mark.parametrize("way", TARGETS)
each_way_that_serves = pytest.mark.parametrize(
    "way", [pytest.param("prefix", marks=short_prefixes_serve), "moved", "fuzzy"]
)


def engine_of() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


def without_times(report: ReuseReport) -> dict:
    told = report.model_dump(exclude={"id"})  # a number of its own
    return {name: value for name, value in told.items() if not name.endswith(("_ms", "_at"))}


def reused(engine: SemShareEngine, way: str, namespace: str | None) -> ReuseReport:
    return engine.prefill(TARGETS[way], reuse=WAYS[way], namespace=namespace, store=False).report


@each_way_that_serves
def test_the_same_namespace_hits_and_another_does_not(way: str) -> None:
    engine = engine_of()
    engine.warm([TEXT], namespace="mine")
    mine, theirs = reused(engine, way, "mine"), reused(engine, way, "theirs")
    assert getattr(mine, f"{way}_tokens") > 50
    assert mine.outcome == ("prefix" if way == "prefix" else "semantic")
    assert len(mine.reference_ids) == 1
    assert theirs.outcome == "miss"
    assert theirs.new_tokens == theirs.prompt_tokens


@each_way
@pytest.mark.parametrize("kind", ["prefill", "generate", "stream"])
def test_the_report_tells_nothing_of_others(way: str, kind: str) -> None:
    """It is the report of an engine whose pool is empty, in every field but the times."""

    def call(engine: SemShareEngine) -> ReuseReport:
        options = {"reuse": WAYS[way], "namespace": "theirs"}
        if kind == "prefill":
            return engine.prefill(TARGETS[way], **options).report
        if kind == "generate":
            return engine.generate(TARGETS[way], max_new_tokens=3, **options).report
        (*_, last) = engine.stream(TARGETS[way], max_new_tokens=3, **options)
        assert last.report is not None
        return last.report

    empty, full = engine_of(), engine_of()
    full.warm([TEXT, TARGETS[way]], namespace="mine")
    full.warm([TEXT])
    assert without_times(call(full)) == without_times(call(empty))
    # nor does it when both hold the same of their own
    assert without_times(call(full)) == without_times(call(empty))


@each_way
def test_the_answer_is_that_of_an_empty_pool(way: str) -> None:
    engine = engine_of()
    engine.warm([TEXT, TARGETS[way]], namespace="mine")
    prompt = TARGETS[way]
    assert_greedy(
        engine.generate(prompt, max_new_tokens=8, reuse=WAYS[way], namespace="theirs").token_ids,
        engine.model,
        engine.token_ids(prompt),
        8,
    )
    logits = engine.prefill(prompt, reuse=WAYS[way], namespace="third").logits
    assert_full(logits, engine.model, np.array(engine.token_ids(prompt)))


@short_prefixes_serve
@pytest.mark.parametrize("first", [None, "default"])
@pytest.mark.parametrize("second", [None, "default"])
def test_no_namespace_is_the_default_one(first: str | None, second: str | None) -> None:
    engine = engine_of()
    engine.warm([TEXT], namespace=first)
    assert reused(engine, "prefix", second).prefix_tokens == len(TEXT)
    assert engine.pool.stats("default").entries == 1


@short_prefixes_serve
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a", "A"),
        ("a", "a "),
        ("a", "a\x00"),
        ("a", "ab"),
        ("\u00e9", "e\u0301"),
        ("x" * 64 + "1", "x" * 64 + "2"),
        ("*", "a"),
    ],
)
def test_names_that_look_alike_are_not_the_same(one: str, other: str) -> None:
    """The last but one differ beyond the 64 bytes that go into an entry's id."""
    engine = engine_of()
    engine.warm([TEXT], namespace=one)
    for way in TARGETS:
        assert reused(engine, way, other).outcome == "miss"
    engine.warm([TEXT], namespace=other)
    assert engine.pool.stats().entries == 2
    assert reused(engine, "prefix", one).prefix_tokens == reused(engine, "prefix", other).prefix_tokens == len(TEXT)


@short_prefixes_serve
def test_the_same_text_has_another_id_in_another_namespace() -> None:
    engine = engine_of()
    engine.warm([TEXT], namespace="a")
    engine.warm([TEXT], namespace="b")
    assert reused(engine, "prefix", "a").reference_ids != reused(engine, "prefix", "b").reference_ids


@each_way_that_serves
def test_clearing_one_namespace_leaves_the_others(way: str) -> None:
    engine = engine_of()
    for namespace in ("a", "b"):
        engine.warm([TEXT], namespace=namespace)
    assert engine.pool.clear("a") == 1
    assert reused(engine, way, "a").outcome == "miss"
    assert reused(engine, way, "b").outcome != "miss"
    assert engine.pool.clear() == 1
    assert reused(engine, way, "b").outcome == "miss"


def test_covering_ends_at_the_namespace() -> None:
    engine = engine_of()
    engine.warm([TEXT], namespace="a")
    engine.warm([TEXT + QUESTION], namespace="b")
    assert [engine.pool.stats(name).tokens for name in ("a", "b")] == [len(TEXT), len(TEXT + QUESTION)]


@short_prefixes_serve
def test_what_others_use_does_not_keep_entries_alive() -> None:
    """Touching goes by namespace, too: an entry of the same id elsewhere stays as old as it is."""
    rows = (len(TEXT) + 1) * 256 * DTYPE.itemsize
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(max_bytes=2 * rows))
    shared = "x" * 64
    engine.warm([TEXT], namespace=shared + "old")
    engine.warm([TEXT], namespace=shared + "new")
    reused(engine, "prefix", shared + "old")
    engine.warm([TEXT], namespace=shared + "newest")
    assert [engine.pool.stats(shared + name).entries for name in ("old", "new", "newest")] == [1, 0, 1]
