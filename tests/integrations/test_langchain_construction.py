"""How SemShareLLM is made: lazily, once, with settings that are checked, sharing what it was given."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from langchain_prompts import NO_LETTERS, OTHER, PROMPT, report_of
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.langchain import SemShareLLM
from tiny_models import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_construction_loads_nothing(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="demo", temperature=0.5)
    assert "demo" in repr(llm)
    assert llm.model_dump()["model_id"] == "demo"
    assert llm._identifying_params["model_id"] == "demo"
    copy.deepcopy(llm)
    assert loads == []


def test_many_threads_load_once(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="demo", max_new_tokens=2)
    at_once = threading.Barrier(4)

    def call(number: int) -> str:
        at_once.wait(30)
        return llm.invoke(f"prompt {number}")

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(call, range(4)))) == 4
    assert len(loads) == 1


def test_loading_settings_arrive(loads: list[dict[str, Any]]) -> None:
    def embedding(text: str) -> list[float]:
        return [1.0]

    pool = PoolConfig(max_bytes=1)
    llm = SemShareLLM.from_model_id(
        "some/model",
        gguf_file="q4.gguf",
        dtype=torch.bfloat16,
        device="cpu",
        pool=pool,
        reuse="exact",
        batch_size=4,
        model_kwargs={"embedding": embedding},
    )
    assert llm.engine is llm.engine
    [call] = loads
    assert (call["model_id"], call["gguf_file"], call["dtype"]) == ("some/model", "q4.gguf", torch.bfloat16)
    assert (call["device"], call["device_map"]) == ("cpu", None)
    assert (call["pool"], call["policy"].level, call["embedding"]) == (pool, "exact", embedding)


@pytest.mark.parametrize("given", ["model_id", "model"])
def test_langchains_embeddings_reach_the_engine(given: str, tmp_path: Path, model: Any, tokenizer: Any) -> None:
    asked: list[str] = []

    class Toy(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return [[1.0, float(text == OTHER)] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            raise AssertionError("both prompts of a comparison are embedded alike")

    which: dict[str, Any] = {"model": model, "tokenizer": tokenizer}
    if given == "model_id":
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        which = {"model_id": str(tmp_path)}
    llm = SemShareLLM(**which, max_new_tokens=1, model_kwargs={"embedding": Toy()})
    llm.engine.warm([PROMPT])
    assert report_of(llm, OTHER).similarity == pytest.approx((1 + 0.5**0.5) / 2)
    assert asked[:2] == [PROMPT, OTHER]


def test_embeddings_tell_objects_apart(tmp_path: Path) -> None:
    def told(embedding: object) -> str:
        return str(SemShareLLM(model_id="demo", model_kwargs={"embedding": embedding})._identifying_params)

    assert told(tmp_path / "a") == told(str(tmp_path / "a")) != told(tmp_path / "b")
    assert told(DeterministicFakeEmbedding(size=8)) != told(len)


def test_a_failed_load_is_tried_again(monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]) -> None:
    working, attempts = SemShareEngine.from_pretrained, []

    def fails_once(model_id: str, **settings: Any) -> SemShareEngine:
        attempts.append(model_id)
        if len(attempts) == 1:
            raise OSError("disk is asleep")
        return working(model_id)

    monkeypatch.setattr(SemShareEngine, "from_pretrained", fails_once)
    llm = SemShareLLM(model_id="demo", max_new_tokens=1)
    with pytest.raises(OSError, match="asleep"):
        llm.invoke(PROMPT)
    llm.invoke(PROMPT)
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokenz": 3}, "max_tokenz"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_tokens": 5, "max_new_tokens": 6}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": "\n"}, "must be a list of strings"),
        ({"reuse": "turbo"}, "balanced"),
        ({"namespace": ""}, "namespace"),
        ({"batch_size": 0}, "batch_size"),
        ({"model_kwargs": {"dtype": "float16"}}, "dtype"),
        ({"model_kwargs": {"zip": 1}}, "zip"),
        ({"model_id": ""}, "Which model"),
    ],
)
def test_bad_fields_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=named):
        SemShareLLM(**{"model_id": "demo", **settings})


def test_a_loaded_model_takes_no_loading_settings(model: Any, tokenizer: Any) -> None:
    engine = SemShareEngine(model, tokenizer)
    with pytest.raises(ConfigError, match="dtype"):
        SemShareLLM(engine=engine, dtype="float16")
    with pytest.raises(ConfigError, match="pool"):
        SemShareLLM(engine=engine, pool=PoolConfig())
    with pytest.raises(ConfigError, match="device"):
        SemShareLLM(model=model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ConfigError, match="tokenizer"):
        SemShareLLM(model=model)
    with pytest.raises(ConfigError, match="engine="):
        SemShareLLM(engine=engine, model=model, tokenizer=tokenizer)
    assert SemShareLLM(model=model, tokenizer=tokenizer, pool=PoolConfig(max_bytes=7)).engine.pool.config.max_bytes == 7


def test_max_tokens_is_max_new_tokens(model: Any, tokenizer: Any) -> None:
    assert SemShareLLM(model=model, tokenizer=tokenizer, max_tokens=3).max_new_tokens == 3


def test_one_engine_serves_several_objects(model: Any, tokenizer: Any) -> None:
    engine = SemShareEngine(model, tokenizer)
    first, second = SemShareLLM(engine=engine, max_new_tokens=4), SemShareLLM(engine=engine, max_new_tokens=4)
    assert first.engine is second.engine is engine
    assert report_of(first, PROMPT).outcome == "miss"
    assert report_of(second, PROMPT).outcome == "prefix"


def test_separate_objects_have_separate_pools(model: Any, tokenizer: Any) -> None:
    first = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=4)
    second = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=4)
    assert [report_of(each, PROMPT).outcome for each in (first, second, first)] == ["miss", "miss", "prefix"]


def test_objects_around_one_model_take_turns(tokenizer: Any) -> None:
    model = tiny_model("llama")
    parts = [f"{PROMPT} {number} {OTHER}\n" for number in range(4)]
    prompts = [parts[a] + parts[b] + parts[c] + "\n\nWhy?" for a, b, c in ((0, 1, 2), (2, 0, 1), (3, 2, 0), (1, 3, 2))]

    def answers(_: int = 0) -> list[str]:
        fresh = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=6, reuse="fast")
        return [fresh.invoke(prompt) for prompt in prompts]

    alone = answers()
    with ThreadPoolExecutor(3) as threads:
        assert all(together == alone for together in threads.map(answers, range(12)))


def test_configurable_fields_keep_the_engine(llm: SemShareLLM, loads: list[dict[str, Any]]) -> None:
    field = {"max_new_tokens": ConfigurableField(id="length")}
    long = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    bound = llm.configurable_fields(**field).bind(suppress_tokens=NO_LETTERS)
    assert bound.with_config(configurable={"length": 3}).invoke(PROMPT) == long[:3]
    assert llm.engine.pool.stats().entries == 1

    lazy = SemShareLLM(model_id="demo").configurable_fields(**field)
    for length in (1, 2, 3):
        lazy.with_config(configurable={"length": length}).invoke(PROMPT)
    assert len(loads) == 1


def test_another_configured_model_is_loaded(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="a", max_new_tokens=1)
    either = llm.configurable_fields(model_id=ConfigurableField(id="model"))
    either.invoke(PROMPT)
    either.with_config(configurable={"model": "b"}).invoke(PROMPT)
    assert [call["model_id"] for call in loads] == ["a", "b"]
