"""Tiny random models of several architectures, behind the demo model's tokenizer, and the demo model itself.

Random weights show that two engines compute the same, which is all that is asked here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, MptConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from semshare_core import PoolConfig, SemShareEngine

_HIDDEN, _LAYERS, _HEADS, _CONTEXT = 64, 4, 4, 4096
_SPREAD = 0.2  # with the usual 0.02 every position predicts the same, and a wrong row would go unseen
_WINDOW = 24  # smaller than the prompts, so that the sliding layers cut
_NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}


def _shape(**more: Any) -> dict[str, Any]:
    shape = {
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": _CONTEXT,
        "initializer_range": _SPREAD,
        "tie_word_embeddings": False,
    }
    return shape | _NO_SPECIAL | more


_CONFIGS: dict[str, Callable[[int], PreTrainedConfig]] = {
    "llama": lambda vocabulary: LlamaConfig(**_shape(vocab_size=vocabulary)),
    "llama-bfloat16": lambda vocabulary: LlamaConfig(**_shape(vocab_size=vocabulary)),
    "llama-dynamic": lambda vocabulary: LlamaConfig(
        **_shape(
            vocab_size=vocabulary,
            max_position_embeddings=256,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 16.0},
        )
    ),
    "gemma3": lambda vocabulary: Gemma3TextConfig(
        **_shape(
            vocab_size=vocabulary,
            head_dim=_HIDDEN // _HEADS,
            sliding_window=_WINDOW,
            layer_types=["sliding_attention", "full_attention"] * (_LAYERS // 2),
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            },
        )
    ),
    "gpt_neox": lambda vocabulary: GPTNeoXConfig(**_shape(vocab_size=vocabulary, rotary_pct=0.25)),
    "mpt": lambda vocabulary: MptConfig(
        d_model=_HIDDEN,
        n_heads=_HEADS,
        n_layers=_LAYERS,
        expansion_ratio=2,
        max_seq_len=_CONTEXT,
        vocab_size=vocabulary,
        initializer_range=_SPREAD,
        **_NO_SPECIAL,
    ),
}


@functools.cache
def _demo() -> SemShareEngine:
    return SemShareEngine.from_pretrained("demo", device="cpu", dtype="float32")


@functools.cache
def _tiny(name: str) -> Any:
    config = _CONFIGS[name](len(_demo().tokenizer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
    return model.to(dtype).eval().requires_grad_(False)


def make_engine(name: str, *, calibrated: bool, pool: PoolConfig) -> SemShareEngine:
    """An engine with an empty pool. ``name``: ``demo`` or a tiny model; ``calibrated``: as the demo model comes."""
    demo = _demo()
    model = demo.model if name == "demo" else _tiny(name)
    return SemShareEngine(model, demo.tokenizer, pool=pool, calibration="auto" if calibrated else None)
