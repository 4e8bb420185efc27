"""Models with quantised weights: how they are loaded, and that the promises hold for them as for any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from benchmarks import model_memory
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.errors import ConfigError
from semshare_core.model.load import load_model
from semshare_core.model.weights.parts import plain_parts
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 4
ASKED = TEXT + "Who lit it?"
MOVED = "The ferry leaves on Sundays. " + TEXT[:300] + "Who lit it?"

pytestmark = pytest.mark.usefixtures("one_thread")


def int8() -> Any:
    return pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig()


def int4() -> Any:
    """Groups of 32 columns share a scale; this kind runs on the CPU."""
    quantization = pytest.importorskip("torchao.quantization")
    return quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=quantization.PerGroup(32))


KINDS = [int8, int4]


def settings(kind: Callable[[], Any]) -> dict[str, Any]:
    from transformers import TorchAoConfig

    return {"quantization_config": TorchAoConfig(kind())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return path


def engine_of(folder: Path, kind: Callable[[], Any], **more: Any) -> SemShareEngine:
    fields = {"dtype": "float32", "device": "cpu", "model_kwargs": settings(kind), **more}
    return SemShareEngine.from_pretrained(str(folder), **fields)


def full_logits(engine: SemShareEngine, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return engine.model(torch.tensor([engine.token_ids(prompt)])).logits[0, -1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_invariants_hold_with_quantised_weights(folder: Path, kind: Callable[[], Any]) -> None:
    engine = engine_of(folder, kind)
    plain = SemShareEngine.from_pretrained(str(folder), dtype="float32", device="cpu")
    weight = engine.model.model.layers[0].mlp.up_proj.weight
    assert type(weight) is not type(plain.model.model.layers[0].mlp.up_proj.weight)
    assert not torch.allclose(full_logits(engine, ASKED), full_logits(plain, ASKED), atol=1e-3), "quantised indeed"
    engine.warm([ASKED])
    for ratio in (0.1, 0.5):  # 1: reference = target, whatever is recomputed
        logits = engine.prefill(ASKED, reuse=ReusePolicy(recompute_ratio=ratio), store=False).logits
        torch.testing.assert_close(logits, full_logits(engine, ASKED), atol=1e-3, rtol=1e-3)
    for reuse in (ReusePolicy(recompute_ratio=1.0), "off"):  # 2: everything recomputed
        logits = engine.prefill(MOVED, reuse=reuse, store=False).logits
        torch.testing.assert_close(logits, full_logits(engine, MOVED), atol=1e-3, rtol=1e-3)
    out = engine.generate(ASKED + " And why?", reuse="exact", max_new_tokens=12)
    assert out.report.outcome == "prefix"
    ids = torch.tensor([engine.token_ids(ASKED + " And why?")])
    expected = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert out.token_ids == expected[0, ids.shape[1] :].tolist()


def test_the_table_of_the_docs_is_what_the_command_prints() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    assert model_memory.table() in page


def test_the_bytes_in_the_table_are_those_that_quantised_weights_take(folder: Path) -> None:
    engine = engine_of(folder, int8, dtype="bfloat16")
    parts = [part for weight in engine.model.parameters() for _, part in plain_parts(weight)]
    assert sum(part.nbytes for part in parts) == model_memory.weight_bytes(tiny_model("llama"), "int8")


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_of_quantised_weights_is_noticed(folder: Path, kind: Callable[[], Any]) -> None:
    engine = engine_of(folder, kind)
    engine.warm([TEXT])
    assert engine.prefill(ASKED, reuse="exact", store=False).report.outcome == "prefix"
    engine.model.model.layers[1].mlp.up_proj.weight.scale.data.mul_(1.1)
    assert engine.prefill(ASKED, reuse="exact", store=False).report.outcome == "miss"


def test_a_folder_tells_quantised_weights_from_others(folder: Path, tmp_path: Path) -> None:
    def outcome(kind: Callable[[], Any]) -> str:
        engine = engine_of(folder, kind, pool=PoolConfig(path=tmp_path))
        found = engine.prefill(TEXT, reuse="exact").report.outcome
        engine.pool.close()
        return found

    assert outcome(int8) == "miss"
    assert outcome(int8) == "prefix"
    with pytest.warns(UserWarning, match="another model"):
        assert outcome(int4) == "miss"


@pytest.mark.parametrize("framework", ["langchain", "langchain chat", "llama_index"])
def test_the_frameworks_models_hand_loading_settings_on(folder: Path, framework: str) -> None:
    fields: dict[str, Any] = {
        "model_id": str(folder),
        "device": "cpu",
        "max_new_tokens": 2,
        "model_kwargs": {**settings(int8), "attn_implementation": "eager", "embedding": lambda text: [1.0, 2.0]},
    }
    if framework == "llama_index":
        from semshare_integrations.llama_index import SemShareLLM

        llm: Any = SemShareLLM(**fields)
    else:
        from semshare_integrations.langchain import ChatSemShare
        from semshare_integrations.langchain import SemShareLLM as LangChainLLM

        llm = ChatSemShare(**fields) if "chat" in framework else LangChainLLM(**fields)
    assert llm.engine.model.is_quantized
    assert llm.engine.model.config._attn_implementation == "eager"
    assert llm.engine.generate(TEXT, max_new_tokens=2).token_ids


def test_two_ways_to_quantise_are_two_models_to_a_response_cache() -> None:
    from semshare_integrations.langchain import SemShareLLM

    def told(kind: Callable[[], Any]) -> str:
        return str(SemShareLLM(model_id="demo", model_kwargs=settings(kind))._identifying_params)

    assert told(int8) == told(int8) != told(int4)
    secret = SemShareLLM(model_id="demo", model_kwargs={"token": "hf_secret"})
    assert "hf_secret" not in str(secret._identifying_params)


def _engine(folder: str, wrong: str) -> None:
    SemShareEngine.from_pretrained(folder, model_kwargs={wrong: None})


def _langchain(folder: str, wrong: str) -> None:
    from semshare_integrations.langchain import ChatSemShare

    ChatSemShare(model_id=folder, model_kwargs={wrong: None})


def _llama_index(folder: str, wrong: str) -> None:
    from semshare_integrations.llama_index import SemShareLLM

    SemShareLLM(model_id=folder, model_kwargs={wrong: None})


@pytest.mark.parametrize("where", [_engine, _langchain, _llama_index])
@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("quantisation_config", "quantization_config"),
        ("atn_implementation", "attn_implementation"),
        ("revison", "revision"),
    ],
)
def test_a_typo_in_a_loading_setting_gets_a_suggestion(
    folder: Path, where: Callable[[str, str], None], wrong: str, meant: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?i){wrong}.*did you mean.*{meant}"):
        where(str(folder), wrong)


def test_torch_dtype_is_another_name_of_dtype(folder: Path) -> None:
    model, _ = load_model(folder, device="cpu", model_kwargs={"torch_dtype": torch.bfloat16})
    assert model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="the same setting"):
        load_model(folder, device="cpu", dtype="float32", model_kwargs={"torch_dtype": "bfloat16"})


# --- bitsandbytes: not to be had on the CPU, but what it asks of us is known ------------------------------------------


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What transformers was asked to load. It gives a model that refuses ``.to`` as one of bitsandbytes does."""
    asked: list[dict[str, Any]] = []

    def from_pretrained(source: str, **given: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
        asked.append(given)
        model = tiny_model("llama")
        model.is_loaded_in_8bit, model.is_quantized = True, True
        model.quantization_method = QuantizationMethod.BITS_AND_BYTES
        with pytest.raises(ValueError, match="bitsandbytes"):
            model.to("meta")
        return model, {"missing_keys": []}

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", from_pretrained)
    return asked


@pytest.mark.parametrize("device", ["cpu", None])
def test_a_bitsandbytes_model_is_placed_as_it_is_loaded(
    folder: Path, bitsandbytes: list[dict[str, Any]], device: str | None
) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    engine = SemShareEngine.from_pretrained(str(folder), device=device, model_kwargs={"quantization_config": config})
    [given] = bitsandbytes
    assert given["quantization_config"] is config
    assert list(given["device_map"]) == [""]
    assert engine.generate(TEXT, max_new_tokens=2).token_ids


def test_a_device_map_of_a_quantised_model_is_left_as_it_is(folder: Path, bitsandbytes: list[dict[str, Any]]) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    load_model(folder, device_map="auto", model_kwargs={"quantization_config": config, "max_memory": {"cpu": "1GB"}})
    [given] = bitsandbytes
    assert (given["device_map"], given["max_memory"]) == ("auto", {"cpu": "1GB"})
