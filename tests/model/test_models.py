"""Loading: every source a user may name, and a clear error of ours for each way it can be wrong."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import BertConfig, BloomConfig, BloomForCausalLM, DynamicCache, PreTrainedModel

from semshare_core.errors import (
    ConfigError,
    ModelError,
    ModelNotFoundError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.load import load_model
from semshare_core.model.support import UNBOUNDED, check_pair, check_servable, max_context
from tiny_models import CONTEXT, SLIDING_WINDOW, TINY, VOCAB, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_folder_without_a_tokenizer_is_told_what_it_lacks(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"holds no tokenizer .* tokenizer.save_pretrained\(folder\), or pass tokenizer="
    ):
        load_model(str(tmp_path), device="cpu")
    model, _ = load_model(str(tmp_path), tokenizer=tiny_tokenizer(), device="cpu")
    assert model.device.type == "cpu"


def write_gguf(path: Path, architecture: str, *, metadata: bool = True) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    if metadata:
        writer.add_context_length(128)
        writer.add_embedding_length(8)
        writer.add_block_count(1)
        writer.add_head_count(2)
        writer.add_feed_forward_length(16)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a", "b", "ab"])
        writer.add_token_merges(["a b"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# --- the models that the tests stand on --------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_depend_on_tokens_and_positions(name: str) -> None:
    model = TINY[name]()
    ids = torch.arange(5, 45)[None]
    full = model(ids, **with_cache(model, DynamicCache())).logits[0]
    swapped = ids.clone()
    swapped[0, [-9, -4]] = ids[0, [-4, -9]]
    assert torch.isfinite(full).all()
    assert len(set(full.argmax(-1).tolist())) > 10, "predictions differ by token"
    assert (model(swapped).logits[0, -1] - full[-1]).abs().max() > 1e-2, "predictions depend on positions"
    cache = DynamicCache()
    first = model(ids[:, :30], **with_cache(model, cache)).logits[0]
    rest = model(ids[:, 30:], **with_cache(model, cache)).logits[0]
    torch.testing.assert_close(torch.cat([first, rest]), full, atol=1e-4, rtol=0)


def test_tiny_models_are_the_same_for_the_same_seed_only() -> None:
    state = torch.random.get_rng_state()
    same, other = tiny_model("llama", 0), tiny_model("llama", 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    weight = TINY["llama"]().lm_head.weight
    assert torch.equal(weight, same.lm_head.weight)
    assert not torch.equal(weight, other.lm_head.weight)


def test_sliding_window_cuts() -> None:
    ids = torch.arange(0, 3 * SLIDING_WINDOW)[None]
    windowed, plain = tiny_model("mistral_sliding"), tiny_model("mistral")
    assert not torch.allclose(windowed(ids).logits[0, -1], plain(ids).logits[0, -1], atol=1e-2)


@pytest.mark.parametrize("text", ["", "plain", "é漢字🙂\n\t  x\x00\x7f", "".join(map(chr, range(0x100, 0x200)))])
def test_tiny_tokenizer_round_trips(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_tiny_tokenizer_knows_its_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (256, 257, 258)
    assert len(tokenizer) == VOCAB
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|start|>user\nhi<|end|>\n<|start|>assistant\n"


# --- what can be served ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_servable_models_pass(name: str) -> None:
    model = TINY[name]()
    check_servable(model)
    check_pair(model, tiny_tokenizer())


def test_attention_without_explicit_mask_is_refused() -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="attn_implementation='sdpa'"):
        check_servable(model)


def test_bidirectional_attention_is_refused() -> None:
    from transformers import BertLMHeadModel

    config = BertConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, initializer_range=0.3
    )
    with pytest.raises(UnsupportedModelError, match=r"not causal|rows? per token"):
        check_servable(BertLMHeadModel(config).eval())


def test_model_without_head_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no causal language-model head"):
        check_servable(tiny_model("llama").model)


def test_tokenizer_with_ids_beyond_the_table_is_refused() -> None:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    with pytest.raises(TokenizerMismatchError, match=r"'<extra>' = 259; the model has 259 rows"):
        check_pair(model, tokenizer)
    model.resize_token_embeddings(300)
    check_pair(model, tokenizer)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("llama", CONTEXT), ("mpt", CONTEXT), ("gemma3", CONTEXT), ("llama_linear", 4 * CONTEXT), ("llama_yarn", CONTEXT)],
)
def test_max_context(name: str, tokens: int) -> None:
    assert max_context(TINY[name]()) == tokens


def test_max_context_of_a_model_without_limit() -> None:
    config = BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=2)
    assert max_context(BloomForCausalLM(config)) == UNBOUNDED


# --- loading -----------------------------------------------------------------------------------------------------


def same_logits(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    ids = torch.arange(20)[None]
    return torch.equal(one(ids).logits, other(ids).logits)


@pytest.mark.parametrize("as_path", [str, Path])
def test_loads_a_local_folder(llama_folder: Path, as_path: type) -> None:
    model, tokenizer = load_model(as_path(llama_folder), device="cpu")
    assert same_logits(model, tiny_model("llama"))
    assert model.dtype == torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer("AB").input_ids == [65, 66]


def test_dtype_device_map_and_tokenizer_are_passed_on(llama_folder: Path, tmp_path: Path) -> None:
    own = tiny_tokenizer()
    model, tokenizer = load_model(llama_folder, dtype="bfloat16", device_map="cpu", tokenizer=own)
    assert model.dtype == torch.bfloat16
    assert tokenizer is own
    own.save_pretrained(tmp_path)
    assert load_model(llama_folder, dtype=torch.float64, device="cpu", tokenizer=tmp_path)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float33"}, "float33"),
        ({"dtype": "int8"}, "floating-point"),
        ({"device": "toaster"}, "toaster"),
        ({"device": "cpu", "device_map": "auto"}, "not both"),
    ],
)
def test_bad_settings(llama_folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(llama_folder, **options)


@pytest.mark.parametrize(
    "name", ["", "  ", "/no/such/folder", "./nothing", "~/nothing", "a/b/c", "gone.gguf", "no-such/model"]
)
def test_unknown_models(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model(name, device="cpu")


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_model(tmp_path, device="cpu")
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"gguf_file='some\.gguf'"):
        load_model(tmp_path, device="cpu")
    with pytest.raises(ModelNotFoundError, match=r"other\.gguf"):
        load_model(tmp_path, gguf_file="other.gguf", device="cpu")


def test_tokenizer_that_is_not_there(llama_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tokenizer"):
        load_model(llama_folder, tokenizer=tmp_path, device="cpu")


def test_tokenizer_that_does_not_fit(llama_folder: Path) -> None:
    larger = tiny_tokenizer()
    larger.add_tokens(["<extra>"])
    with pytest.raises(TokenizerMismatchError):
        load_model(llama_folder, tokenizer=larger, device="cpu")


@pytest.mark.parametrize("damage", ["cut", "missing weight", "no weights", "config"])
def test_damaged_folders(tmp_path: Path, damage: str) -> None:
    model = tiny_model("llama")
    state = dict(model.state_dict())
    if damage == "missing weight":
        del state["lm_head.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    tiny_tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "config":
        (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError):
        load_model(tmp_path, device="cpu")


def test_unknown_architecture_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(ModelError, match="never-heard-of"):
        load_model(tmp_path, device="cpu")


def test_file_that_is_no_gguf(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(ModelError, match="not a GGUF file"):
        load_model(garbage, device="cpu")
    garbage.write_bytes(b"GGUF" + bytes(range(256)) * 40)
    with pytest.raises(ModelError, match="damaged GGUF"):
        load_model(tmp_path, gguf_file="garbage.gguf", device="cpu")
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="is a file"):
        load_model(tmp_path / "model.bin", device="cpu")


@pytest.mark.parametrize("architecture", ["bert", "invented"])
@pytest.mark.parametrize("metadata", [True, False])
def test_gguf_of_another_architecture(tmp_path: Path, architecture: str, metadata: bool) -> None:
    path = write_gguf(tmp_path / "model.gguf", architecture, metadata=metadata)
    with pytest.raises(ModelError, match=architecture):
        load_model(path, device="cpu")


def test_gguf_cut_short(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", "llama")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="damaged GGUF"):
        load_model(path, device="cpu")
