"""Plain transformers, for the peers that build on it: the full prefill, and decoding over whatever cache is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from answering import TEXT_TOKENS, Clock
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, DynamicCache


def load_model(folder: Path, threads: int) -> Any:
    """The model in float32 with PyTorch's own attention, on ``threads`` threads."""
    torch.set_num_threads(threads)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()


@torch.no_grad()
def prefill(model: Any, target: list[int]) -> tuple[Any, DynamicCache]:
    """The next token's logits [vocabulary] and the cache."""
    cache = DynamicCache(config=model.config)
    out = model(input_ids=torch.tensor([target]), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return out.logits[0, -1], cache


def full(model: Any, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any]]:
    """Seconds of a full prefill up to the first token, and log-probabilities [k, vocabulary]."""
    with Clock() as clock:
        logits, cache = prefill(model, target)
        int(logits.argmax())
    return clock.seconds, follow(model, logits, cache, len(target), continuation)


@torch.no_grad()
def follow(model: Any, logits: Any, cache: Any, position: int, continuation: list[int]) -> NDArray[Any]:
    """Log-probabilities [k, vocabulary] before each token of ``continuation``, fed one by one from ``position`` on."""
    rows = [torch.log_softmax(logits, dim=-1).numpy()]
    for place, token in enumerate(continuation[:-1]):
        rows.append(torch.log_softmax(_step(model, cache, token, position + place), dim=-1).numpy())
    return np.stack(rows)


@torch.no_grad()
def greedy(model: Any, logits: Any, cache: Any, position: int) -> list[int]:
    """The model's own continuation, up to an end-of-sequence token."""
    tokens = [int(logits.argmax())]
    while len(tokens) < TEXT_TOKENS and tokens[-1] != model.config.eos_token_id:
        tokens.append(int(_step(model, cache, tokens[-1], position + len(tokens) - 1).argmax()))
    return tokens


def _step(model: Any, cache: Any, token: int, position: int) -> Any:
    """Logits [vocabulary] after one more token; its position is told, since a thinned cache no longer knows it."""
    places = torch.tensor([[position]])
    out = model(input_ids=torch.tensor([[token]]), position_ids=places, past_key_values=cache, use_cache=True)
    return out.logits[0, -1]


def kv_bytes(cache: Any) -> int:
    """Of all keys and values in ``cache``."""
    return sum(rows.numel() * rows.element_size() for layer in cache.layers for rows in (layer.keys, layer.values))


def full_kv_bytes(model: Any, tokens: int) -> int:
    """Of all keys and values of so many tokens, in float32."""
    config = model.config
    return int(tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4)
