"""Decode with `model.generate` from a filled cache: sampling, stopping and token-by-token output are transformers'."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer

from semshare_core.decode.sampling import SamplingParams, end_tokens
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.errors import CallCancelledError, CallTimeoutError, ConfigError, NumericalError, SemShareError
from semshare_core.model.cache_argument import with_cache
from semshare_core.prefill.cache import MergedCache
from semshare_core.process.interrupt import NEVER, Interrupt

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass
class Decoded:
    """Generated token ids, why it ended, and when the first token came (``time.perf_counter`` seconds)."""

    token_ids: list[int]
    finish_reason: FinishReason
    first_token_at: float


def decode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    cache: Cache,
    ids: Tensor,
    params: SamplingParams,
    *,
    interrupt: Interrupt = NEVER,
    on_token: Callable[[int], None] | None = None,
) -> Decoded:
    """Generate behind ``ids`` [n]. The first step computes those of them whose rows ``cache`` does not hold yet.

    A cancelled answer is what was generated until then, and ``cache`` holds whole rows of it.

    Raises:
        NumericalError: the model's logits are not numbers.
        CallCancelledError: the request was cancelled before the first token was there.
        CallTimeoutError: its time was up before the answer was complete.
    """
    feed = _Feed(on_token)
    ending = _Ending(AnswerText(tokenizer, params.stop, ids.tolist()), len(ids), interrupt)
    config = params.config(model, tokenizer)

    def ended() -> bool:
        return ending.stopped or (bool(feed.token_ids) and feed.token_ids[-1] in end_tokens(config.eos_token_id))

    with torch.no_grad(), _seeded(params.seed, ids.device):
        try:
            model.generate(
                input_ids=ids[None],
                attention_mask=torch.ones_like(ids)[None],
                **with_cache(model, cache),
                generation_config=config,
                stopping_criteria=[ending],
                streamer=feed,
                logits_processor=LogitsProcessorList([_Checked(), *(params.logits_processor or ())]),
            )
        except (CallCancelledError, CallTimeoutError) as error:
            if not ended() and len(feed.token_ids) < params.max_new_tokens:
                if isinstance(error, CallTimeoutError) or not feed.token_ids:
                    raise
                if isinstance(cache, MergedCache):  # some layers may be a row ahead of the others
                    cache.finish(len(ids) + len(feed.token_ids) - 1)
                return Decoded(feed.token_ids, "cancelled", feed.first_token_at)
        except (ValueError, TypeError) as error:
            if isinstance(error, SemShareError) or feed.token_ids:
                raise
            raise ConfigError(f"transformers could not begin the answer with these settings: {error}") from error
    return Decoded(feed.token_ids, "stop" if ended() else "length", feed.first_token_at)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within the context torch's random numbers follow from ``seed``; afterwards they go on as without it."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def check_logits(logits: Tensor) -> None:
    """Raises :class:`NumericalError` if any of ``logits`` is not a number."""
    if bool(logits.isnan().any()):
        raise NumericalError(
            "the model's logits are not numbers. A dtype with too small a range overflows (float16: try bfloat16 or "
            "float32), as do damaged weights. Nothing of this call was kept, and the references that it drew on left "
            "the pool; if the same call fails again, with reuse='off', the model itself is at fault."
        )


class _Checked(LogitsProcessor):
    """Raises :class:`NumericalError` where logits are not numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        check_logits(scores)
        return scores


class _Feed(BaseStreamer):
    """Collects tokens as they come, and the time of the first."""

    def __init__(self, on_token: Callable[[int], None] | None) -> None:
        self.token_ids: list[int] = []
        self.first_token_at = 0.0
        self._on_token = on_token
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        if not self._prompt_seen:  # generate() hands over the prompt first
            self._prompt_seen = True
            return
        if not self.token_ids:
            self.first_token_at = time.perf_counter()
        for token in value.flatten().tolist():
            self.token_ids.append(token)
            if self._on_token is not None:
                self._on_token(token)

    def end(self) -> None:
        """Nothing is buffered."""


class _Ending(StoppingCriteria):
    """Ends at a stop string in the *generated* text; raises if the request must end.

    transformers' own ``stop_strings`` also finds a string that begins in the prompt.
    """

    def __init__(self, text: AnswerText, prompt_tokens: int, interrupt: Interrupt) -> None:
        self._text = text
        self._start = prompt_tokens
        self._interrupt = interrupt
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.stopped = self._text.may_stop and self._text.stopped(input_ids[0, self._start :].tolist())
        if not self.stopped:
            self._interrupt.check()
        return torch.full((input_ids.shape[0],), self.stopped, dtype=torch.bool, device=input_ids.device)
