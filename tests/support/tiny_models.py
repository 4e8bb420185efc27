"""Tiny random models, one per architecture and position scheme that the engine has to serve, and a tokenizer for them.

Random weights prove equalities (the same logits by another way) and nothing about quality. They are drawn wide enough
(standard deviation 0.2) that attention is far from uniform: with the usual 0.02 every position predicts the same, and
a wrong position or mask would go unseen.

SEMSHARE_TEST_DEVICE and SEMSHARE_TEST_DTYPE put them elsewhere (default: cpu, float32). ``benchmarks/gpu/matrix.py``
says which tests are written for that; how near answers are then is told in ``same_answer``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    NanoChatConfig,
    Olmo2Config,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

DEVICE = torch.device(os.environ.get("SEMSHARE_TEST_DEVICE", "cpu"))
DTYPE: torch.dtype = getattr(torch, os.environ.get("SEMSHARE_TEST_DTYPE", "float32"))
"""Where the tiny models are."""

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 64, 4, 4, 2, 16, 259
CONTEXT = 4096
SPREAD = 0.2
SLIDING_WINDOW = 24
"""Smaller than the prompts of the tests, so that the window cuts."""

Builder = Callable[[], PreTrainedModel]

END, START, PAD = "<|end|>", "<|start|>", "<|pad|>"
_CHAT = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def _shape(**more: Any) -> dict[str, Any]:
    """Settings that most decoder configurations share. Token ids: 256 end, 257 start, 258 padding."""
    return {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": SPREAD,
        "eos_token_id": 256,
        "bos_token_id": 257,
        "pad_token_id": 258,
        "tie_word_embeddings": False,
    } | more


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    return placed(model.to(torch.float32))


def placed(model: PreTrainedModel) -> PreTrainedModel:
    """``model`` on the tests' device in their dtype. Buffers stay float32, as in models that were loaded."""
    if torch.float32 != DTYPE:
        for weight in model.parameters():
            weight.data = weight.data.to(DTYPE)
        model.config.dtype = DTYPE
    return model.to(DEVICE).eval().requires_grad_(False)


_CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_shape()),
    "mistral": lambda: MistralConfig(**_shape(sliding_window=None)),
    "mistral_sliding": lambda: MistralConfig(**_shape(sliding_window=SLIDING_WINDOW)),
    "qwen2": lambda: Qwen2Config(**_shape()),
    "qwen3": lambda: Qwen3Config(**_shape(head_dim=HEAD_DIM)),
    "phi3": lambda: Phi3Config(**_shape()),
    "gemma2": lambda: Gemma2Config(**_shape(head_dim=HEAD_DIM, sliding_window=SLIDING_WINDOW)),
    "gemma3": lambda: Gemma3TextConfig(
        **_shape(
            head_dim=HEAD_DIM,
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2),
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            },
        )
    ),
    "olmo2": lambda: Olmo2Config(**_shape()),
    "granite": lambda: GraniteConfig(
        **_shape(attention_multiplier=0.25, residual_multiplier=0.7, embedding_multiplier=3.0)
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**_shape(rotary_pct=0.25)),
    "phi": lambda: PhiConfig(**_shape(partial_rotary_factor=0.5)),
    "cohere": lambda: CohereConfig(**_shape(logit_scale=1.0)),
    "nanochat": lambda: NanoChatConfig(**_shape()),  # its keys turn the other way round
    "smollm3": lambda: SmolLM3Config(**_shape(no_rope_layers=[1, 1, 1, 0])),
    "mpt": lambda: MptConfig(
        d_model=HIDDEN,
        n_heads=HEADS,
        n_layers=LAYERS,
        expansion_ratio=2,
        max_seq_len=CONTEXT,
        vocab_size=VOCAB,
        initializer_range=SPREAD,
        eos_token_id=256,
        bos_token_id=257,
        pad_token_id=258,
    ),
    "llama_linear": lambda: LlamaConfig(**_shape(**_rope("linear", factor=4.0))),
    "llama_llama3": lambda: LlamaConfig(
        **_shape(
            **_rope(
                "llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            )
        )
    ),
    "llama_yarn": lambda: LlamaConfig(**_shape(**_rope("yarn", factor=4.0, original_max_position_embeddings=1024))),
    "llama_dynamic": lambda: LlamaConfig(**_shape(max_position_embeddings=64, **_rope("dynamic", factor=4.0))),
    "phi3_longrope": lambda: Phi3Config(
        **_shape(
            **_rope(
                "longrope",
                factor=CONTEXT / 64,
                short_factor=[1.0 + 0.05 * i for i in range(HEAD_DIM // 2)],
                long_factor=[2.0 + 0.5 * i for i in range(HEAD_DIM // 2)],
                original_max_position_embeddings=64,
            ),
            original_max_position_embeddings=64,
        )
    ),
}

VARYING_ROPE = ("llama_dynamic", "phi3_longrope")
"""Models whose rotary frequencies change with the length of the prompt (here beyond 64 tokens)."""

SLIDING = ("mistral_sliding", "gemma2", "gemma3")
"""Models with layers that see only the last ``SLIDING_WINDOW`` tokens."""


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """The model called ``name`` with the weights that ``seed`` gives, leaving torch's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(_CONFIGS[name]())


def _builder(name: str) -> Builder:
    return lambda: tiny_model(name)


TINY: dict[str, Builder] = {name: _builder(name) for name in _CONFIGS}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte (ids 0 to 255 in byte order), so that any text comes back, and three special ones."""
    alphabet = _bytes_in_order()
    core = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([END, START, PAD])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        bos_token=START,
        pad_token=PAD,
        chat_template=_CHAT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _bytes_in_order() -> list[str]:
    """The printable stand-in of every byte in the byte-level alphabet: itself if printable, else from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]
