"""llama.cpp's prompt cache, through llama-cpp-python: the longest prefix of a stored state is kept, the rest computed.

The one setting is `prompt-cache`: `LlamaRAMCache`, used in the steps of llama-cpp-python's own `create_completion`
(look up, load the state, evaluate what is new), without what that does after the first token. The model is the GGUF
file itself: the weights of every other peer before they were unpacked, in llama.cpp's own arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from answering import TEXT_TOKENS, Answer, Clock, Options, log_softmax, serve
from llama_cpp import Llama, LlamaRAMCache, llama_get_logits_ith, llama_state_seq_get_size
from numpy.typing import NDArray

_CACHE_BYTES = 4 * 2**30


class LlamaCpp:
    def __init__(self, options: Options) -> None:
        self.llama = Llama(
            str(options.model),
            n_ctx=options.longest + 1,
            n_threads=options.threads,
            n_threads_batch=options.threads,
            verbose=False,
        )
        self.cache = LlamaRAMCache(_CACHE_BYTES)
        self.full_kv_bytes = 0

    def full(self, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any]]:
        self.llama.reset()
        with Clock() as clock:
            next(self.llama.generate(target, temp=0.0))
        self.full_kv_bytes = self._kv_bytes()
        return clock.seconds, self._follow(continuation)

    def load(self, setting: str, references: list[list[int]]) -> None:
        if setting != "prompt-cache":
            raise ValueError(f"unknown setting {setting!r}")
        self.cache = LlamaRAMCache(_CACHE_BYTES)
        self.llama.reset()
        for reference in references:
            self.llama.reset()
            self.llama.eval(reference)
            self.cache[reference] = self.llama.save_state()

    def reuse(self, setting: str, target: list[int], continuation: list[int]) -> Answer:
        clock = self._timed(target)
        kv_bytes = self._kv_bytes()
        rows = self._follow(continuation)
        self.llama.n_tokens = len(target) - 1  # back to the prompt, whose last token is fed again
        tokens: list[int] = []
        for token in self.llama.generate(target, temp=0.0):
            tokens.append(token)
            if len(tokens) == TEXT_TOKENS or token == self.llama.token_eos():
                break
        return Answer(clock, rows, tokens, kv_bytes, self.full_kv_bytes)

    def again(self, setting: str, target: list[int]) -> float:
        return self._timed(target).seconds

    def _timed(self, target: list[int]) -> Clock:
        with Clock() as clock:
            self._look_up(target)
            next(self.llama.generate(target, temp=0.0))
        return clock

    def _kv_bytes(self) -> int:
        """Of what the context holds, in the type that it holds it in (float16)."""
        return int(llama_state_seq_get_size(self.llama.ctx, 0))

    def _look_up(self, target: list[int]) -> None:
        """Take the stored state with the longest common prefix, unless the live one is as good."""
        if target not in self.cache:
            return
        stored = self.cache[target]
        live = self.llama.input_ids[: self.llama.n_tokens].tolist()
        common = Llama.longest_token_prefix(stored.input_ids[: stored.n_tokens].tolist(), target)
        if common > Llama.longest_token_prefix(live, target):
            self.llama.load_state(stored)

    def _follow(self, continuation: list[int]) -> NDArray[Any]:
        """Log-probabilities [k, vocabulary]; the prompt has just been evaluated."""
        rows = [self._log_probs()]
        for token in continuation[:-1]:
            self.llama.eval([token])
            rows.append(self._log_probs())
        return np.stack(rows)

    def _log_probs(self) -> NDArray[Any]:
        logits = llama_get_logits_ith(self.llama.ctx, -1)
        return log_softmax(np.ctypeslib.as_array(logits, shape=(self.llama.n_vocab(),)))


if __name__ == "__main__":
    serve(LlamaCpp)
