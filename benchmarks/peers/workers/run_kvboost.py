"""KVBoost: chunks of 128 tokens of warmed prompts are reused where a target holds them again.

A setting is the way in which it mends the reused chunks: `selective` (its default: the last tokens before each seam),
`cacheblend` (the most deviating 15 %) or `none`. Its own loader would take float16, which a CPU is slow in; it gets the
same float32 model as every other peer, through its public constructor.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import plain
import torch
from answering import TEXT_TOKENS, Answer, Clock, Options, serve
from kvboost import KVBoost
from numpy.typing import NDArray
from transformers import AutoTokenizer

_CACHE_BYTES = 4 * 2**30


class _FromTokens(KVBoost):
    """KVBoost takes text: this one takes token ids as they are, and can be led along a given continuation."""

    def ask(
        self, target: list[int], led: list[int] | None, most: int = TEXT_TOKENS
    ) -> tuple[Clock, list[int], list[Any]]:
        """The clock up to the first token, ``most`` tokens, and the logits [vocabulary] before each.

        Led along ``led``, it takes those tokens whatever its logits say, past an end-of-sequence token too.
        """
        self._target, self._led, self._logits = target, iter(led or ()), []
        tokens: list[int] = []
        clock = Clock()

        def took(token: int) -> None:
            if not tokens:
                clock.__exit__(None, None, None)
            tokens.append(token)

        clock.__enter__()
        # Nothing of the target is stored: the next question about it must find what this one found.
        length = len(led) if led else most
        self.generate("", length, do_sample=False, cacheable_prefix_len=0, on_token=took)
        return clock, tokens, self._logits

    def see(self, reference: list[int]) -> None:
        self._target = reference
        self.warm("")

    def _encode(self, text: str) -> list[int]:
        return self._target

    def _sample(self, logits: Any, temperature: float, do_sample: bool) -> int:
        self._logits.append(logits[0])
        chosen = int(super()._sample(logits, temperature, do_sample))
        return next(self._led, chosen)


class Kvboost:
    def __init__(self, options: Options) -> None:
        self.model = plain.load_model(options.model, options.threads)
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.endless = copy.deepcopy(self.tokenizer)
        self.endless.eos_token = None
        self.engine: _FromTokens

    def full(self, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any]]:
        return plain.full(self.model, target, continuation)

    def load(self, setting: str, references: list[list[int]]) -> None:
        self.engine = _FromTokens(
            self.model,
            self.tokenizer,
            max_cache_bytes=_CACHE_BYTES,
            max_chunks=4096,  # by default 128 chunks, some 16,000 tokens: the bytes are the bound here
            recompute_strategy=setting,
            device="cpu",
        )
        for reference in references:
            self.engine.see(reference)

    def reuse(self, setting: str, target: list[int], continuation: list[int]) -> Answer:
        clock, tokens, _ = self.engine.ask(target, None)
        self.engine.tokenizer = self.endless
        _, _, logits = self.engine.ask(target, continuation)
        rows = np.stack([torch.log_softmax(row, dim=-1).numpy() for row in logits])
        kept = plain.full_kv_bytes(self.model, len(target))  # it keeps every row of the prompt
        return Answer(clock, rows, tokens, kept, kept)

    def again(self, setting: str, target: list[int]) -> float:
        return self.engine.ask(target, None, 1)[0].seconds


if __name__ == "__main__":
    serve(Kvboost)
