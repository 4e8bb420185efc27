"""Models whose cache cannot be rearranged are refused, with the reason, and by their configuration where possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    DeepseekV3Config,
    Gemma3nTextConfig,
    Lfm2Config,
    Llama4TextConfig,
    MambaConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
    T5Config,
    ViTConfig,
)

from semshare_core.errors import UnsupportedModelError
from semshare_core.model.load import load_model
from semshare_core.model.support import check_config, check_servable
from tiny_models import tiny_tokenizer

_SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def deepseek_v3() -> PreTrainedConfig:
    return DeepseekV3Config(
        **_SMALL | {"head_dim": 8},
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=2,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )


def llama4() -> PreTrainedConfig:
    return Llama4TextConfig(
        **_SMALL, intermediate_size_mlp=32, num_local_experts=2, attention_chunk_size=16, pad_token_id=0
    )


def qwen3_next() -> PreTrainedConfig:
    return Qwen3NextConfig(
        **_SMALL,
        linear_num_value_heads=2,
        linear_num_key_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    )


def gemma3n() -> PreTrainedConfig:
    return Gemma3nTextConfig(
        **_SMALL | {"intermediate_size": [32] * 4},
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=259,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        activation_sparsity_pattern=[0.0] * 4,
    )


REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "t5": (T5Config(vocab_size=259, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2), "encoder-decoder"),
    "mamba": (MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2), "state-space"),
    "deepseek_v3": (deepseek_v3(), "multi-latent attention"),
    "qwen3_next": (qwen3_next(), "linear-attention"),
    "llama4": (llama4(), "chunked attention"),
    "gemma3n": (gemma3n(), "cross-layer KV sharing"),
}


def build(config: PreTrainedConfig) -> torch.nn.Module:
    from transformers import T5ForConditionalGeneration
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    builder = T5ForConditionalGeneration if config.model_type == "t5" else MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return builder(config).eval()


@pytest.mark.parametrize("name", REFUSED)
def test_refused_as_an_object(name: str) -> None:
    config, reason = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=reason):
        check_servable(build(config))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_weights_are_read(name: str, tmp_path: Path) -> None:
    config, reason = REFUSED[name]
    config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=reason):
        load_model(tmp_path, device="cpu")


def test_sharing_hidden_from_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward pass over a few tokens finds layers without rows of their own where no setting's name says so."""
    model = build(gemma3n())
    monkeypatch.setattr("semshare_core.model.support._check_layers", lambda config: None)
    with pytest.raises(UnsupportedModelError, match="layers keep one key and value row per token"):
        check_servable(model)


def test_convolution_layers_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="convolution"):
        check_config(Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]))


@pytest.mark.parametrize("model_type", ["mamba2", "rwkv", "jamba", "recurrent_gemma", "falcon_h1", "bamba", "xlstm"])
def test_other_recurrent_models_are_refused_by_their_configuration(model_type: str) -> None:
    with pytest.raises(UnsupportedModelError, match="state"):
        check_config(AutoConfig.for_model(model_type))


def test_a_model_for_images_has_no_language_model_head() -> None:
    with pytest.raises(UnsupportedModelError, match="no causal language-model head"):
        check_config(ViTConfig())
