"""What is handed to the engine as model, tokenizer or pool, and is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import pipeline

from semshare_core import PoolConfig, SemShareEngine
from semshare_core.errors import ConfigError, UnsupportedModelError
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 4


def _pipeline() -> Any:
    return pipeline("text-generation", model=tiny_model("llama"), tokenizer=tiny_tokenizer())


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda: None, "AutoModelForCausalLM.from_pretrained"),
        (lambda: "demo", r"SemShareEngine.from_pretrained\('demo'\)"),
        (_pipeline, "pipe.model and pipe.tokenizer"),
        (tiny_tokenizer, "the model comes first"),
        (lambda: nn.DataParallel(tiny_model("llama")), "model.module"),
        (lambda: nn.Linear(2, 2), "a Linear, not a transformers model"),
        (lambda: type(tiny_model("llama")), "the class LlamaForCausalLM"),
    ],
)
def test_what_is_no_model_is_refused_with_what_to_pass(make: Callable[[], Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        SemShareEngine(make(), tiny_tokenizer())


@pytest.mark.parametrize(
    ("tokenizer", "remedy"),
    [
        (None, "AutoTokenizer.from_pretrained returns"),
        (lambda text: [1], "a function, not a transformers tokenizer"),
        ("demo", r"AutoTokenizer.from_pretrained\('demo'\)"),
        (tiny_tokenizer().backend_tokenizer, "PreTrainedTokenizerFast"),
    ],
)
def test_what_is_no_tokenizer_is_refused_with_what_to_pass(tokenizer: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        SemShareEngine(tiny_model("llama"), tokenizer)


@pytest.mark.parametrize(
    ("place", "settings", "remedy"),
    [
        (None, {}, "model_id is None"),
        (7, {}, "model_id is 7"),
        (tiny_model("llama"), {}, r"SemShareEngine\(model, tokenizer\)"),
        ("demo", {"tokenizer": len}, "not a transformers tokenizer"),
        ("demo", {"gguf_file": 3}, "gguf_file is 3"),
    ],
)
def test_what_names_no_place_is_not_loaded_from(place: Any, settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        SemShareEngine.from_pretrained(place, **settings)


@pytest.mark.parametrize("pool", ["pool", Path("pool")])
def test_the_folder_of_a_pool_belongs_into_its_config(pool: Any) -> None:
    with pytest.raises(ConfigError, match=r"PoolConfig\(path='pool'\)"):
        SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=pool)
    with pytest.raises(ConfigError, match="not a PoolConfig"):
        SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool={"max_bytes": 3})  # type: ignore[arg-type]
    assert SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig()).pool.stats().entries == 0


def _compiled(model: Any) -> Any:
    return torch.compile(model)


def _compiled_and_adapted(model: Any) -> Any:
    return torch.compile(get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])))


@pytest.mark.parametrize("wrap", [_compiled, _compiled_and_adapted])
def test_of_a_compiled_model_the_model_inside_is_served(wrap: Callable[[Any], Any]) -> None:
    model = tiny_model("llama")
    engine = SemShareEngine(wrap(model), tiny_tokenizer())
    assert engine.model is model
    engine.warm([TEXT])
    assert engine.prefill(TEXT + "?", reuse="exact").report.outcome == "prefix"


@pytest.mark.parametrize("framework", ["langchain", "llama_index"])
def test_frameworks_take_and_refuse_the_same(framework: str) -> None:
    if framework == "langchain":
        from semshare_integrations.langchain import SemShareLLM as LangChainLLM

        make: Any = LangChainLLM
    else:
        from semshare_integrations.llama_index import SemShareLLM

        make = SemShareLLM
    model = tiny_model("llama")
    assert make(model=torch.compile(model), tokenizer=tiny_tokenizer()).engine.model is model
    with pytest.raises(ConfigError, match=r"pipe\.model"):
        make(model=_pipeline(), tokenizer=tiny_tokenizer())
    with pytest.raises(ConfigError, match="not a transformers tokenizer"):
        make(model=model, tokenizer=len)


def test_an_offloaded_model_is_refused_for_what_it_is() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(tiny_model("llama"), execution_device="cpu")
    assert next(model.parameters()).is_meta
    with pytest.raises(UnsupportedModelError, match=r"are offloaded.*quantization_config"):
        SemShareEngine(model, tiny_tokenizer())
