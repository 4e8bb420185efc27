"""How much memory models of common sizes take, by the precision of their weights: the table of ``docs/weights.md``.

Run ``python -m benchmarks.model_memory``. Nothing is downloaded: the models are built from their dimensions, without
weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

GROUP = 128  # columns that share a scale and a zero point where 4 bits are packed
_GB = 1e9
_TOKENS = 1000


def _llama(hidden: int, inner: int, layers: int, heads: int, *, tied: bool, **more: Any) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=tied,
        **({"num_key_value_heads": 8, "vocab_size": 128_256} | more),
    )


def _qwen(hidden: int, inner: int, layers: int, heads: int) -> Qwen2Config:
    return Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        vocab_size=152_064,
        tie_word_embeddings=False,
    )


MODELS: dict[str, PreTrainedConfig] = {
    "SmolLM2 135M": _llama(576, 1536, 30, 9, tied=True, num_key_value_heads=3, vocab_size=49_152),
    "Llama 3.2 1B": _llama(2048, 8192, 16, 32, tied=True),
    "Llama 3.2 3B": _llama(3072, 8192, 28, 24, tied=True),
    "Llama 3.1 8B": _llama(4096, 14_336, 32, 32, tied=False),
    "Qwen2.5 14B": _qwen(5120, 13_824, 48, 40),
    "Qwen2.5 32B": _qwen(5120, 27_648, 64, 40),
    "Llama 3.1 70B": _llama(8192, 28_672, 80, 64, tied=False),
}


def weight_bytes(model: PreTrainedModel, kind: str) -> int:
    """Bytes of a model's weights as float32, bfloat16, int8 (a scale and a zero point a row) or int4 (one a group).

    Only the linear layers inside of the decoder are quantised; the embeddings and what is left stay in bfloat16.
    """
    plain = 4 if kind == "float32" else 2
    total = sum(weight.numel() * plain for weight in model.parameters())  # tied ones count once
    if kind in ("float32", "bfloat16"):
        return total
    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            rows, columns = module.weight.shape
            packed = rows * columns + rows * 5 if kind == "int8" else rows * columns // 2 + rows * columns // GROUP * 4
            total += packed - rows * columns * plain
    return total


def cache_bytes(config: PreTrainedConfig) -> int:
    """Bytes of keys and values of a thousand tokens in bfloat16."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * size * _TOKENS


def table() -> str:
    """Markdown."""
    kinds = ("float32", "bfloat16", "int8", "int4")
    lines = [
        f"| model | {' | '.join(kinds)} | keys and values of {_TOKENS:,} tokens |",
        "|---|" + "---:|" * (len(kinds) + 1),
    ]
    for name, config in MODELS.items():
        with torch.device("meta"):
            model = (LlamaForCausalLM if isinstance(config, LlamaConfig) else Qwen2ForCausalLM)(config)
        model.tie_weights()
        sizes = " | ".join(f"{weight_bytes(model, kind) / _GB:.1f} GB" for kind in kinds)
        lines.append(f"| {name} | {sizes} | {cache_bytes(config) / _GB:.2f} GB |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
