"""Settings that were mistyped, or that other libraries call otherwise: the error says which was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from semshare_core import PoolConfig, Retention, ReusePolicy, SemShareEngine
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.langchain import ChatSemShare, SemShareLLM
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

FRONTS = [SemShareLLM, ChatSemShare, LlamaIndexLLM]


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


def asked(llm: Any, **settings: Any) -> Any:
    return llm.complete("Hi", **settings) if isinstance(llm, LlamaIndexLLM) else llm.invoke("Hi", **settings)


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("name", ["demo", Path("models/demo")], ids=["str", "path"])
def test_a_models_name_as_model_means_model_id(front: Any, name: Any) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean model_id='{name}'"):
        front(model=name)


@pytest.mark.parametrize("front", FRONTS[:2])
def test_model_name_means_model_id(front: Any) -> None:
    with pytest.raises(ValueError, match=r"no setting model_name\. Did you mean model_id\?"):
        front(model_name="demo")


def test_llama_index_calls_it_model_name() -> None:
    assert LlamaIndexLLM(model_name="demo").model_id == "demo"


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("tempature", "temperature"),
        ("max_tokenz", "max_tokens"),
        ("name_space", "namespace"),
        ("model_ids", "model_id"),
        ("ggufile", "gguf_file"),
        ("max_completion_tokens", "max_new_tokens"),
    ],
)
def test_a_mistyped_field(front: Any, typed: str, meant: str) -> None:
    with pytest.raises(ValueError, match=rf"{front.__name__} has no setting {typed}\. Did you mean {meant}\?"):
        front(model_id="demo", **{typed: 1})


@pytest.mark.parametrize("front", FRONTS)
def test_a_field_that_resembles_none(front: Any) -> None:
    with pytest.raises(ValueError, match="has no setting zip") as caught:
        front(model_id="demo", zip=1)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda: PoolConfig(max_byte=1), "max_bytes"),
        (lambda: PoolConfig(ttl_second=1), "ttl_seconds"),
        (lambda: ReusePolicy(recompute_ration=0.1), "recompute_ratio"),
        (lambda: ReusePolicy(min_similarty=0.1), "min_similarity"),
        (lambda: Retention(decays=0.1), "decay"),
    ],
)
def test_a_mistyped_setting_of_an_engine(make: Any, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"Did you mean {meant}\?"):
        make()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("top_q", "top_p"),
        ("repetion_penalty", "repetition_penalty"),
        ("namspace", "namespace"),
        ("max_token", "max_new_tokens"),
        ("stop_sequences", "stop"),
    ],
)
def test_a_mistyped_setting_of_a_call(engine: SemShareEngine, typed: str, meant: str) -> None:
    told = rf"unknown generation settings: {typed}\. Did you mean {meant}\?"
    with pytest.raises(ConfigError, match=told):
        engine.generate("Hi", **{typed: 1})
    with pytest.raises(ConfigError, match=told):
        list(engine.stream("Hi", **{typed: 1}))
    for front in FRONTS:
        with pytest.raises(ConfigError, match=told):
            asked(front(engine=engine), **{typed: 1})


@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("max_tokens", "5"), ("max_new_tokens", "5"), ("max_tokens", True), ("temperature", "0.7"), ("seed", "1")],
)
def test_a_number_in_quotes_is_told_as_such(engine: SemShareEngine, front: Any, name: str, value: Any) -> None:
    """As a field and in a call alike."""
    told = rf"{name.replace('max_tokens', 'max_new_tokens')}={value!r}.*(must be a number|valid number|valid integer)"
    with pytest.raises(ValueError, match=told):
        front(engine=engine, **{name: value})
    with pytest.raises(ConfigError, match=told):
        asked(front(engine=engine), **{name: value})


@pytest.mark.parametrize("front", FRONTS)
def test_paths_are_names(front: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: SemShareEngine) -> None:
    loaded: list[Any] = []

    def load(model_id: Any, **settings: Any) -> SemShareEngine:
        loaded.append((model_id, settings["gguf_file"], settings["tokenizer"]))
        return engine

    monkeypatch.setattr(SemShareEngine, "from_pretrained", load)
    llm = front(model_id=tmp_path / "model", gguf_file=Path("m.gguf"), tokenizer=tmp_path, max_new_tokens=1)
    assert llm.model_id == str(tmp_path / "model")
    asked(llm)
    assert loaded == [(str(tmp_path / "model"), "m.gguf", str(tmp_path))]


def test_an_engine_takes_paths(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = SemShareEngine.from_pretrained(tmp_path, tokenizer=tmp_path, pool=PoolConfig(path=str(tmp_path / "pool")))
    assert engine.generate("Hi", max_new_tokens=1).token_ids


@pytest.mark.parametrize("front", FRONTS)
def test_an_engine_by_its_name(front: Any) -> None:
    with pytest.raises(ConfigError, match=r"engine='demo' is a str, .*from_pretrained"):
        front(engine="demo")
    with pytest.raises(ConfigError, match="model is 3, not a transformers model"):
        front(model=3, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("front", FRONTS)
def test_both_names_of_one_setting(front: Any) -> None:
    with pytest.raises(ValueError, match="max_tokens and max_new_tokens are the same setting"):
        front(model_id="demo", max_tokens=3, max_new_tokens=4)


def test_llama_index_is_told_messages_and_tools_of_another_framework(engine: SemShareEngine) -> None:
    llm = LlamaIndexLLM(engine=engine, max_tokens=2)
    with pytest.raises(PromptError, match=r"ChatMessage objects; it contains \{'role'"):
        llm.chat([{"role": "user", "content": "Hi"}])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"is not a LlamaIndex tool: .*FunctionTool\.from_defaults"):
        llm.chat_with_tools([print], "Hi")  # type: ignore[list-item]
