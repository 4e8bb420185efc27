"""The engine over a pool that survives it: answers out of stored rows, damage that shows only in use, embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from same_answer import assert_greedy, same_numbers, short_prefixes_serve
from semshare_core import PoolConfig, ReuseReport, SemShareEngine
from semshare_core.errors import PoolLockedError, PoolWarning
from semshare_core.model.cache_argument import with_cache
from tiny_models import DEVICE, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)
PREFIX, MOVED = TEXT + "\n\nWhich?", "Once more. " + "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhich?"


def engine_at(path: Path, name: str = "llama", **settings: object) -> SemShareEngine:
    return SemShareEngine(tiny_model(name), tiny_tokenizer(), pool=PoolConfig(path=path, **settings))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A folder with one prompt, its owner gone."""
    engine = engine_at(tmp_path / "pool")
    engine.warm([TEXT])
    engine.pool.close()
    return tmp_path / "pool"


@short_prefixes_serve
def test_stored_rows_answer_as_those_in_memory(stored: Path) -> None:
    memory = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    memory.warm([TEXT])
    engine = engine_at(stored)
    for prompt, reuse in ((MOVED, "high"), (PREFIX, "exact"), (MOVED, "fast")):
        expected = memory.prefill(prompt, reuse=reuse, store=False)
        found = engine.prefill(prompt, reuse=reuse, store=False)
        assert same_numbers(found.logits, expected.logits)
        assert found.report.token_sources == expected.report.token_sources
        assert found.report.outcome in ("semantic", "prefix")
        engine.pool.flush()
    engine.pool.close()


@short_prefixes_serve
def test_a_second_owner_is_refused_and_a_reader_is_not(stored: Path) -> None:
    owner = engine_at(stored)
    with pytest.raises(PoolLockedError, match="read-only"):
        engine_at(stored)
    reader = engine_at(stored, read_only=True)
    assert reader.generate(PREFIX, max_new_tokens=2, reuse="exact").report.prefix_tokens == len(TEXT)
    owner.pool.close()
    engine_at(stored).pool.close()


@short_prefixes_serve
def test_another_models_rows_are_left_alone(stored: Path) -> None:
    with pytest.warns(PoolWarning, match="another model"):
        other = engine_at(stored, "qwen3")
    assert other.generate(PREFIX, max_new_tokens=2).report.outcome == "miss"
    other.pool.close()
    with pytest.warns(PoolWarning, match="another model"):
        engine = engine_at(stored)
    assert engine.prefill(PREFIX, reuse="exact").report.prefix_tokens == len(TEXT)
    engine.pool.close()


def spoil(folder: Path, share: float) -> None:
    """Flip one bit of the rows, at a share of their file's length."""
    for path in folder.rglob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[int(share * len(data))] ^= 4
        path.write_bytes(data)


def answered(engine: SemShareEngine, call: str, prompt: str, reuse: str) -> tuple[list[int], ReuseReport]:
    """The first four tokens, however they are asked for."""
    if call == "generate":
        answer = engine.generate(prompt, max_new_tokens=4, reuse=reuse)
        return answer.token_ids, answer.report
    if call == "stream":
        (*_, last) = engine.stream(prompt, max_new_tokens=4, reuse=reuse)
        assert last.report is not None
        assert last.token_ids is not None
        return last.token_ids, last.report
    result = engine.prefill(prompt, reuse=reuse)
    ids = torch.tensor([engine.token_ids(prompt)], device=DEVICE)
    first = int(result.logits.argmax())
    made = engine.model.generate(
        torch.cat((ids, torch.tensor([[first]], device=DEVICE)), dim=1),
        **with_cache(engine.model, result.cache),
        max_new_tokens=3,
        do_sample=False,
    )
    return [int(token) for token in made[0, ids.shape[1] :]], result.report


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98], ids=["first layers", "middle", "last layer"])
@pytest.mark.parametrize("reuse", [pytest.param("exact", marks=short_prefixes_serve), "high"])
@pytest.mark.parametrize("call", ["generate", "stream", "prefill"])
def test_a_call_that_meets_damage_answers_all_the_same(stored: Path, call: str, reuse: str, share: float) -> None:
    """Whatever had been computed by then; the prompt that needs the file leaves the pool and the disk."""
    spoil(stored, share)
    engine = engine_at(stored)
    prompt = PREFIX if reuse == "exact" else MOVED
    with pytest.warns(PoolWarning, match="damaged"):
        ids, report = answered(engine, call, prompt, reuse)
    assert_greedy(ids, engine.model, engine.token_ids(prompt), 4)
    assert report.outcome == "miss"
    assert report.stored
    engine.pool.flush()
    assert engine.pool.stats().entries == 1
    hooks = [len(layer._forward_pre_hooks) for layer in engine.model.model.layers]
    assert hooks == [0] * len(hooks)
    engine.pool.close()


def toy(text: str) -> list[float]:
    return [1.0, float(len(text)), float(text.count("e"))]


def other_toy(text: str) -> list[float]:
    return [float(text.count("a")), 1.0, 2.0, 3.0]


def test_vectors_of_an_unknown_encoder_are_made_anew(tmp_path: Path) -> None:
    """A function has no identity: what it was in the last process nobody knows."""
    for embedding in (toy, other_toy, toy):
        engine = SemShareEngine(
            tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(path=tmp_path), embedding=embedding
        )
        engine.warm([TEXT])
        report = engine.prefill(MOVED, reuse="high", store=False).report
        assert report.similarity is not None
        assert engine.pool.stats().entries == 1
        engine.pool.close()
