"""Where an answer ends, whoever gave it: the same rule for every system and for the full prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from benchmarks.case import Case
from semshare_core.decode.sampling import end_tokens
from semshare_core.quality.divergence import Continuation


@dataclass(frozen=True)
class Ending:
    """An answer ends before the model's end token and, where something is looked up, with its first line.

    Attributes:
        ends: the model's end tokens.
        first_line: a small model goes on with questions of its own behind the answer; what it says there counts for
            nothing.
    """

    tokenizer: PreTrainedTokenizerBase
    ends: tuple[int, ...]
    first_line: bool

    @classmethod
    def of(cls, case: Case, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Ending:
        return cls(tokenizer, tuple(end_tokens(model.generation_config.eos_token_id)), bool(case.gold))

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether ``tokens`` go as far as the answer does."""
        if any(token in self.ends for token in tokens):
            return True
        return self.first_line and "\n" in self._decoded(tokens).lstrip()

    def length(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` it takes to know the answer."""
        return next((end for end in range(1, len(tokens)) if self.reached(tokens[:end])), len(tokens))

    def text(self, tokens: Sequence[int]) -> str:
        kept = tokens[: next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))]
        text = self._decoded(kept).strip()
        return text.split("\n")[0] if self.first_line else text

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@torch.no_grad()
def greedy_tokens(model: PreTrainedModel, cache: Cache, logits: Tensor, ending: Ending, limit: int) -> list[int]:
    """The likeliest tokens behind ``cache``, one at a time, to the answer's end; at most ``limit``."""
    reader = Continuation(model, cache)
    tokens = [int(logits.argmax())]
    while len(tokens) < limit and not ending.reached(tokens):
        token = torch.tensor([tokens[-1]], device=logits.device)
        tokens.append(int(reader.read(token, 1)[0].argmax()))
    return tokens


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)
