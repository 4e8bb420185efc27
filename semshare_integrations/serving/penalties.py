"""OpenAI's penalties and biases, as processors of our own: so they stand behind the one that records probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class TokenBias(LogitsProcessor):
    """Adds to the logits of tokens."""

    def __init__(self, biases: Mapping[int, float]) -> None:
        self._tokens = torch.tensor([*biases])
        self._biases = torch.tensor([*biases.values()])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        scores[:, self._tokens.to(scores.device)] += self._biases.to(scores)
        return scores


class CountPenalties(LogitsProcessor):
    """Lowers the logits of tokens that the answer has: by ``presence`` once, and by ``frequency`` for each time."""

    def __init__(self, presence: float, frequency: float) -> None:
        self._presence = presence
        self._frequency = frequency
        self._prompt_tokens: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._prompt_tokens is None:
            self._prompt_tokens = input_ids.shape[1]
        counts = torch.bincount(input_ids[0, self._prompt_tokens :], minlength=scores.shape[-1]).to(scores)
        return scores - self._frequency * counts - self._presence * (counts > 0)


class LeastTokens(LogitsProcessor):
    """Lets no answer end before it has ``least`` tokens."""

    def __init__(self, least: int, ends: Sequence[int]) -> None:
        self._least = least
        self._ends = torch.tensor([*ends], dtype=torch.long)
        self._prompt_tokens: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._prompt_tokens is None:
            self._prompt_tokens = input_ids.shape[1]
        if input_ids.shape[1] - self._prompt_tokens >= self._least:
            return scores
        return scores.index_fill(-1, self._ends.to(scores.device), -torch.inf)
