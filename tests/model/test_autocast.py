"""Calls under ``torch.autocast``: it belongs to the caller's thread, and rows made under it serve under it only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.config import LEVELS
from semshare_core.model.autocast import Autocast
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 7
"""More than a block of keys: below float32 ``exact`` serves whole blocks."""
ASKED = TEXT + "Who lit it?"
MOVED = "The ferry leaves on Sundays. " + TEXT[:350] + "Who lit it?"

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture
def engine() -> Iterator[SemShareEngine]:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(level="balanced"))
    yield engine
    engine.pool.close()


def hit(engine: SemShareEngine) -> bool:
    return engine.prefill(ASKED, reuse="exact", store=False).report.outcome == "prefix"


def own_answer(engine: SemShareEngine, prompt: str, tokens: int) -> list[int]:
    ids = torch.tensor([engine.token_ids(prompt)])
    output = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return output[0, ids.shape[1] :].tolist()


def dtypes_of(engine: SemShareEngine) -> set[torch.dtype]:
    entries = list(engine.pool._entries.chosen(None))
    return {tensor.dtype for entry in entries for piece in entry.segments for tensor in piece.rows.layer(1)}


def test_rows_made_under_autocast_serve_under_autocast_only(engine: SemShareEngine) -> None:
    with autocast():
        engine.warm([TEXT])
        assert hit(engine)
    assert not hit(engine)
    engine.pool.clear()
    engine.warm([TEXT])
    assert hit(engine)
    with autocast():
        assert not hit(engine)
    with torch.autocast("cpu", torch.float16):
        assert not hit(engine), "another dtype is another computation"


def test_rows_keep_the_dtype_that_autocast_gave_them(engine: SemShareEngine) -> None:
    with autocast():
        engine.warm([TEXT])
    assert torch.bfloat16 in dtypes_of(engine)
    engine.pool.clear()
    engine.warm([TEXT])
    assert dtypes_of(engine) == {torch.float32}


@pytest.mark.parametrize("level", [*LEVELS, ReusePolicy(recompute_ratio=0.3), ReusePolicy.paper(0.3)])
def test_every_level_answers_under_autocast(engine: SemShareEngine, level: Any) -> None:
    with autocast():
        engine.warm([TEXT])
        for prompt in (ASKED, MOVED):
            out = engine.generate(prompt, reuse=level, max_new_tokens=4, store=False)
            pieces = list(engine.stream(prompt, reuse=level, max_new_tokens=4, store=False))
            assert pieces[-1].token_ids == out.token_ids, "the stream's thread computes under the caller's autocast"


def test_a_stream_computes_under_the_autocast_of_its_caller(engine: SemShareEngine) -> None:
    with autocast():
        expected = own_answer(engine, ASKED, 16)
        pieces = engine.stream(ASKED, reuse="exact", max_new_tokens=16)
    assert list(pieces)[-1].token_ids == expected, "that of the call, wherever its pieces are read"
    with autocast():
        assert hit(engine)
    assert not hit(engine)


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_an_awaited_answer_is_computed_under_the_autocast_of_its_caller(engine: SemShareEngine, framework: str) -> None:
    async def ask() -> None:
        if framework == "langchain":
            from semshare_integrations.langchain import SemShareLLM as LangChainLLM

            await LangChainLLM(engine=engine, max_new_tokens=2).ainvoke(TEXT)
        else:
            from semshare_integrations.llama_index import SemShareLLM

            await SemShareLLM(engine=engine, max_new_tokens=2).acomplete(TEXT)

    with autocast():
        asyncio.run(ask())
        assert hit(engine)
    assert not hit(engine)


def test_an_embedding_function_is_called_without_autocast() -> None:
    seen: list[Autocast] = []

    def embed(text: str) -> list[float]:
        seen.append(Autocast.current())
        return (torch.ones(1, 4) @ torch.full((4, 3), 0.1 + len(text) % 3))[0].tolist()

    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), embedding=embed)
    with autocast():
        engine.warm([TEXT])
        engine.generate(MOVED, reuse="balanced", max_new_tokens=2)
    assert seen
    assert all(each == Autocast(()) for each in seen)


def test_an_engine_may_be_made_under_autocast() -> None:
    with autocast():
        engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm([TEXT])
    assert hit(engine)


def test_a_check_of_the_canary_compares_with_a_prefill_under_the_calls_autocast(engine: SemShareEngine) -> None:
    seen: dict[str, set[Autocast]] = {}

    def look(*_: object) -> None:
        seen.setdefault(threading.current_thread().name, set()).add(Autocast.current())

    engine.model.model.layers[0].register_forward_pre_hook(look)
    with autocast():
        engine.warm([TEXT])
        engine.generate(MOVED, reuse=ReusePolicy(recompute_ratio=0.5, canary=1.0), max_new_tokens=2)
        here = Autocast.current()
    assert engine.canary.wait(60)
    assert engine.canary.counts().measured == 1
    assert seen["semshare-canary"] == {here}


def test_a_check_of_the_canary_is_dropped_when_the_weights_have_changed() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm([TEXT])
    with engine._lock:  # so that the check waits
        asked = ReusePolicy(recompute_ratio=0.5, canary=1.0)
        request = engine._request(MOVED, asked, None)
        prefilled, _ = request.run(1, request.logits)
        _, check = request.commit(prefilled, 0.0, [], store=False)
        check()
        engine.model.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
    assert engine.canary.wait(60)
    assert engine.canary.counts().dropped == 1
    assert engine.canary.counts().measured == 0
