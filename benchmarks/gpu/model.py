"""A random-weight model of an 8B Llama's shape, a tokenizer for it, and prompts as retrieval makes them.

Random weights show what a call costs, and nothing about its answer.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

_PASSAGE, _QUESTION = 200, 40  # tokens
_EDITED, _OF_EACH = 0.25, 0.05  # a quarter of the passages has 5 % of its words changed
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def llama(device: torch.device, *, tiny: bool) -> PreTrainedModel:
    """The model in bfloat16 (tiny: float32), with the attention that transformers chooses."""
    config = LlamaConfig(
        vocab_size=2000 if tiny else 128256,
        hidden_size=64 if tiny else 4096,
        intermediate_size=128 if tiny else 14336,
        num_hidden_layers=3 if tiny else 32,
        num_attention_heads=4 if tiny else 32,
        num_key_value_heads=2 if tiny else 8,
        max_position_embeddings=65536,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        eos_token_id=None,
        bos_token_id=None,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if tiny else torch.bfloat16)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A made-up word for each of ``size`` tokens; the last one is a blank line."""
    words = [""]
    while len(words) < size + 1:
        words = [""] + [word + letter for word in words for letter in _LETTERS]
    vocabulary = {word: number for number, word in enumerate([*words[1:size], "\n\n"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="a")


class Prompts:
    """A prompt of passages and a question, and others with the same passages: shuffled, some of them edited."""

    def __init__(self, tokens: int, vocabulary: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._blank_line = vocabulary - 1
        share = 1 / (np.arange(vocabulary - 1) + 2.7)  # Zipf and Mandelbrot: the commonest word is one in thirty
        self._cumulative = np.cumsum(share / share.sum())
        sizes: list[int] = []
        while sum(sizes) < tokens - _QUESTION:
            size = int(self._rng.integers(_PASSAGE // 2, 3 * _PASSAGE // 2))
            sizes.append(min(size, tokens - _QUESTION - sum(sizes)))
        self._passages = [self._words(size) for size in sizes]
        self.reference = self._joined(self._passages)

    def shuffled(self) -> list[int]:
        """The passages in another order, a quarter of them edited, and another question."""
        order = self._rng.permutation(len(self._passages))
        return self._joined([self._edited(self._passages[number]) for number in order])

    def fresh(self) -> list[int]:
        """As long, with nothing in common."""
        return self._joined([self._words(len(passage)) for passage in self._passages])

    def continued(self, tokens: int) -> list[int]:
        """The reference and ``tokens`` more."""
        return self.reference + self._words(tokens).tolist()

    def _edited(self, passage: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._rng.random() > _EDITED:
            return passage
        changed = self._rng.random(len(passage)) < _OF_EACH
        return np.where(changed, self._words(len(passage)), passage)

    def _words(self, count: int) -> NDArray[np.int64]:
        """Token ids that are as unevenly distributed as words are."""
        ranks = np.searchsorted(self._cumulative, self._rng.random(count))
        return np.minimum(ranks, len(self._cumulative) - 1)

    def _joined(self, passages: list[NDArray[np.int64]]) -> list[int]:
        ids: list[int] = []
        for passage in passages:
            ids += [*passage.tolist(), self._blank_line]
        return ids + self._words(_QUESTION).tolist()
