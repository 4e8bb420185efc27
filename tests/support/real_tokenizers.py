"""Tokenizers of well-known models, tiny random models around them, and a way to make a model say something."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LogitsProcessor, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from benchmarks.corpora import CorpusUnavailable
from benchmarks.corpora.tokenizers import tokenizer_folder
from semshare_core import SemShareEngine

CONTEXT = 2048


class Force(LogitsProcessor):
    """Makes the model say ``ids``, and behind them whatever it likes."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.start = -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.start = input_ids.shape[1] if self.start < 0 else self.start
        said = input_ids.shape[1] - self.start
        if said >= len(self.ids):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[said]] = 0.0
        return forced


_unavailable: list[str] = []  # the first reason: a machine without the registry is not asked once per family


@cache
def _engine(family: str) -> SemShareEngine | str:
    if _unavailable:
        return _unavailable[0]
    try:
        folder = tokenizer_folder(family)
    except CorpusUnavailable as error:
        _unavailable.append(str(error))
        return str(error)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return SemShareEngine(tiny_model_of(tokenizer), tokenizer)


def real_engine(family: str) -> SemShareEngine:
    """An engine around the family's tokenizer, the same for all tests; skips the test where it cannot be had."""
    engine = _engine(family)
    if isinstance(engine, str):
        pytest.skip(f"the tokenizer of {family} cannot be had: {engine}")
    return engine


def tiny_model_of(tokenizer: PreTrainedTokenizerBase, **more: Any) -> LlamaForCausalLM:
    """A random model of next to no size with the vocabulary of ``tokenizer``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.2,
            "tie_word_embeddings": True,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        return LlamaForCausalLM(LlamaConfig(**shape | more)).eval().requires_grad_(False)
