"""What embeds prompts is somebody else's: it fails, it is slow, it asks the engine; answers do not depend on it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_gates import WAIT
from pooled import books_balance
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import ConfigError, EmbeddingWarning
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")

TEXT = "\n\n".join(PARAGRAPHS[:3])
REORDERED = "\n\n".join([*reversed(PARAGRAPHS[:3]), "When does the ferry leave?"])
MODEL = tiny_model("llama")


class Service:
    """Embeds by letters, unless it is down; counts how often it is asked."""

    def __init__(self, down: bool = False) -> None:
        self.down = down
        self.asked = 0
        self.before: Callable[[], None] = lambda: None

    def __call__(self, text: str) -> list[float]:
        self.asked += 1
        self.before()
        if self.down:
            raise ConnectionError("no service")
        return [1.0 + text.count(letter) for letter in "etaoinsrhl"]


def engine_with(embedding: Any, **pool: Any) -> SemShareEngine:
    return SemShareEngine(MODEL, tiny_tokenizer(), embedding=embedding, pool=PoolConfig(**({"min_tokens": 1} | pool)))


def answer(engine: SemShareEngine, prompt: str = TEXT, **settings: Any) -> Any:
    return engine.generate(prompt, **({"max_new_tokens": 3} | settings))


def in_time(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, done in a thread so that a deadlock fails the test instead of stopping it."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(WAIT)
    assert results, "it never came to an end"
    return results[0]


def only(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(each.message) for each in caught if each.category is EmbeddingWarning]


def test_a_service_that_is_down_at_the_look_up(recwarn: pytest.WarningsRecorder) -> None:
    service = Service()
    engine = engine_with(service)
    engine.warm([TEXT])
    service.down = True
    for prompt, outcome in ((TEXT + " Why?", "prefix"), (REORDERED, "semantic"), ("A text of its own.", "miss")):
        asked = service.asked
        report = answer(engine, prompt, store=False, reuse=ReusePolicy(recompute_ratio=0.4)).report
        assert (report.outcome, report.similarity) == (outcome, None)
        assert service.asked == asked + 1, "asked once, not again and again"
    [told] = only(recwarn.list)
    assert "ConnectionError: no service" in told
    service.down = False
    assert answer(engine, store=False).report.similarity > 0.9
    service.down = True
    with pytest.warns(EmbeddingWarning):  # it was up in between
        answer(engine, REORDERED, store=False)


@pytest.mark.parametrize("way", ["generate", "stream", "prefill", "warm"])
@pytest.mark.parametrize("level", ["exact", "off", "balanced"])
def test_a_finished_answer_is_kept_without_a_vector_where_the_service_is_down(way: str, level: str) -> None:
    engine = engine_with(Service(down=True))
    ways: dict[str, Callable[[], Any]] = {
        "generate": lambda: answer(engine, reuse=level),
        "stream": lambda: list(engine.stream(TEXT, max_new_tokens=3, reuse=level))[-1],
        "prefill": lambda: engine.prefill(TEXT, reuse=level),
        "warm": lambda: engine.warm([TEXT]),
    }
    with pytest.warns(EmbeddingWarning, match="no service"):
        made = ways[way]()
    assert (made[0] if way == "warm" else made.report).stored
    assert engine.pool.stats().entries == 1
    assert answer(engine, TEXT + " Why?", reuse="exact", store=False).report.prefix_tokens >= len(TEXT)
    assert books_balance(engine.pool)
    assert engine.pool.clear() == 1


@pytest.mark.parametrize("way", ["warm", "generate"])
def test_what_was_kept_without_a_vector_gets_one_when_it_comes_again(way: str) -> None:
    service = Service(down=True)
    engine = engine_with(service)
    keep: dict[str, Callable[[], Any]] = {"warm": lambda: engine.warm([TEXT]), "generate": lambda: answer(engine)}
    with pytest.warns(EmbeddingWarning):
        keep[way]()
    service.down = False
    assert answer(engine, PARAGRAPHS[3], store=False).report.similarity is None
    keep[way]()
    assert engine.pool.stats().entries == 1
    assert answer(engine, TEXT, store=False).report.similarity > 0.99


def test_a_service_that_fails_behind_the_answer_leaves_it_findable_by_the_prompt() -> None:
    service = Service()
    engine = engine_with(service)

    def fail_the_second_time() -> None:
        service.down = service.asked > first

    first = 2  # segments of the prompt
    service.before = fail_the_second_time
    with pytest.warns(EmbeddingWarning):
        answer(engine, max_new_tokens=8)
    service.before, service.down = (lambda: None), False
    assert answer(engine, store=False).report.similarity > 0.99


def test_vectors_of_another_shape_behind_the_answer_do_not_lose_it() -> None:
    lengths = iter([3, 5])
    engine = engine_with(lambda text: [1.0] * next(lengths))
    answer(engine, PARAGRAPHS[0], reuse="exact")
    with pytest.warns(EmbeddingWarning, match="one length for all"):
        assert answer(engine, PARAGRAPHS[1], reuse="exact").token_ids
    assert engine.pool.stats().entries == 2
    with pytest.raises(ConfigError, match="embedding"):  # while nothing would be lost, an error says it
        engine_with(lambda text: [float("nan")]).warm([TEXT])


def test_entries_without_vectors_survive_the_process(tmp_path: Path) -> None:
    service = Service(down=True)
    engine = engine_with(service, path=tmp_path)
    with pytest.warns(EmbeddingWarning):
        engine.warm([TEXT])
    service.down = False
    engine.warm([PARAGRAPHS[3]])
    engine.pool.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = engine_with(Service(), path=tmp_path)
    assert again.pool.stats().entries == 2
    assert answer(again, TEXT + " Why?", reuse="exact", store=False).report.prefix_tokens >= len(TEXT)
    assert answer(again, PARAGRAPHS[3], store=False).report.similarity > 0.99
    again.pool.close()


def test_a_folder_is_opened_while_the_service_is_down(tmp_path: Path) -> None:
    """A function tells nothing of itself, so that the folder's vectors are made anew."""
    engine = engine_with(Service(), path=tmp_path)
    engine.warm([TEXT])
    engine.pool.close()
    with pytest.warns(EmbeddingWarning, match="no service"):
        again = engine_with(Service(down=True), path=tmp_path)
    assert again.pool.stats().entries == 1
    again.pool.close()


def test_vectors_that_come_behind_the_answer_reach_the_folder(tmp_path: Path) -> None:
    engine = engine_with(Service(), path=tmp_path)
    answer(engine, reuse="exact")
    [entry] = engine.pool._entries.chosen(None)
    engine.pool.flush()
    [record] = engine.pool._folder.records()  # type: ignore[union-attr]
    assert len(record.embedding) == 2
    assert np.array_equal(record.embedding, entry.embedding)
    engine.pool.close()


@pytest.mark.parametrize("nested", [{}, {"reuse": "exact"}, {"reuse": "off", "store": False}], ids=str)
@pytest.mark.parametrize("way", ["generate", "stream", "warm"])
def test_an_encoder_that_asks_the_same_engine(way: str, nested: dict[str, Any]) -> None:
    said: list[str] = []

    def summarise(text: str) -> list[float]:
        summary = "".join(piece.text for piece in engine.stream(f"In short: {text[:40]}", max_new_tokens=3, **nested))
        said.append(engine.generate(f"{summary} Shorter:", max_new_tokens=3, **nested).text)
        return [1.0 + text.count(letter) for letter in "etaoin"]

    engine = engine_with(summarise)
    calls = {
        "generate": lambda: answer(engine, timeout=WAIT),
        "stream": lambda: list(engine.stream(TEXT, max_new_tokens=3)),
        "warm": lambda: engine.warm([TEXT]),
    }
    assert in_time(calls[way])
    assert said
    if nested.get("store", True):
        assert engine.pool.stats().entries > 1
    assert in_time(lambda: answer(engine, store=False)).report.similarity > 0.9


def test_no_lock_is_held_while_foreign_code_runs() -> None:
    """Somebody else uses engine and pool meanwhile, at every moment at which the encoder is asked."""
    service = Service()
    engine = engine_with(service)
    plain = SemShareEngine(MODEL, tiny_tokenizer())

    def others() -> bool:
        engine.pool.stats()
        engine.pool.clear("another")
        engine.generate("Another's", max_new_tokens=1, reuse="off", store=False, namespace="another")
        return bool(plain.warm(["On the same model"]))

    service.before = lambda: in_time(others)
    assert len(answer(engine).token_ids) == 3
    assert service.asked
    engine.warm([PARAGRAPHS[3]])
    assert list(engine.stream(TEXT, max_new_tokens=3))[-1].report.similarity is not None


def test_no_lock_is_held_while_the_canary_tells_of_a_dropped_check() -> None:
    engine = SemShareEngine(MODEL, tiny_tokenizer(), policy=ReusePolicy(recompute_ratio=0.4, canary=1.0))
    engine.warm([TEXT])
    engine.canary.close()  # no check has room from now on
    told: list[str] = []

    def listen(canary: Any) -> None:
        in_time(lambda: engine.generate("Another's", max_new_tokens=1, reuse="off", store=False))
        told.append(canary.status)

    engine.canary.listen(listen)
    assert in_time(lambda: answer(engine, REORDERED)).report.outcome == "semantic"
    assert told == ["dropped"]
