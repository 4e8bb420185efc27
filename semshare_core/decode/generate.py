"""Decode with `model.generate` from a filled cache: sampling, stopping and token-by-token output are transformers'."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)
from transformers.cache_utils import Cache
from transformers.generation.streamers import BaseStreamer

from semshare_core.decode.settings import check_settings, settled_config
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.errors import CallCancelledError, CallTimeoutError, ConfigError, NumericalError, SemShareError
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.support import vocabulary_size
from semshare_core.prefill.cache import MergedCache
from semshare_core.process.interrupt import NEVER, Interrupt

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. ``extra`` are other fields of transformers' ``GenerationConfig`` (top_p, top_k, ...)."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self._numbers().items():
            if isinstance(value, str | bool):
                raise ConfigError(f"{name}={value!r} is a {type(value).__name__}, but must be a number.")
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens!r} must be a whole number of at least 1.")
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature!r} must be a finite number, 0 (greedy) or more.")
        if 0 < self.temperature < _COLDEST:  # the scores over it are no numbers any more
            raise ConfigError(f"temperature={self.temperature!r} is too small to sample with: 0 is greedy.")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ConfigError(f"stop={self.stop!r} must be a list of non-empty strings.")
        check_settings(self.extra, _MODEL_KWARGS)
        sample = self.extra.get("do_sample")
        if sample is not None and bool(sample) != (self.temperature > 0):
            said = "is greedy" if self.temperature == 0 else "samples"
            remedy = "temperature=1.0 samples as transformers does by default" if sample else "temperature=0 is greedy"
            raise ConfigError(
                f"do_sample={sample!r} contradicts temperature={self.temperature:g}, which {said}: {remedy}."
            )
        limit = self.extra.get("max_time")
        if limit is not None and not (isinstance(limit, int | float) and limit > 0):
            raise ConfigError(f"max_time={limit!r} must be a number of seconds above 0.")
        if self.seed is not None and not isinstance(self.seed, int):
            raise ConfigError(f"seed={self.seed!r} must be a whole number or None.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**64:
            raise ConfigError(f"seed={self.seed!r} is too large: torch takes 64 bits.")
        processors = self.extra.get("logits_processor")
        if processors is not None and not (isinstance(processors, list | tuple) and all(map(callable, processors))):
            raise ConfigError(f"logits_processor={processors!r} must be a list of logits processors.")
        chunk = self.extra.get("prefill_chunk_size")
        if chunk is not None and not (isinstance(chunk, int) and chunk > 0):
            raise ConfigError(f"prefill_chunk_size={chunk!r} must be a whole number of at least 1, or None.")
        penalty = self.extra.get("repetition_penalty")
        if penalty is not None and not penalty > 0:
            raise ConfigError(f"repetition_penalty={penalty!r} must be greater than 0.")
        top_p = self.extra.get("top_p")
        if top_p is not None and not 0 < top_p <= 1:
            raise ConfigError(f"top_p={top_p!r} must lie in (0, 1].")

    def _numbers(self) -> dict[str, Any]:
        told = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature, "seed": self.seed}
        return told | {name: self.extra[name] for name in _NUMBERS if name in self.extra}

    def config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """The model's own generation config with these settings on top, as ``SETTINGS`` says of each.

        The token that the tokenizer ends a text with ends an answer, too, unless the call says which tokens do: chat
        models are published whose config does not know the end of a turn.
        """
        sample = self.temperature > 0
        extra = {name: value for name, value in self.extra.items() if name not in _MODEL_KWARGS}
        config = settled_config(model, extra, samples=sample)
        config.max_new_tokens, config.do_sample = self.max_new_tokens, sample
        config.temperature = self.temperature if sample else None
        if "eos_token_id" not in extra:
            ends = dict.fromkeys([*end_tokens(config.eos_token_id), *end_tokens(tokenizer.eos_token_id)])
            config.eos_token_id = list(ends) or None
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(end_tokens(config.eos_token_id)), None)
        words = vocabulary_size(model)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if any(not 0 <= token < words for token in end_tokens(getattr(config, name))):
                raise ConfigError(f"{name}={getattr(config, name)!r} must lie in [0, {words}).")
        return config


_COLDEST = 1e-6
_MODEL_KWARGS = ("logits_processor",)
_NUMBERS = ("top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")


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
    sampling: Sampling,
    *,
    interrupt: Interrupt = NEVER,
    on_token: Callable[[int], None] | None = None,
) -> Decoded:
    """Generate behind ``ids`` [n]; those whose rows ``cache`` does not hold yet are computed in the first step.

    An answer that was cancelled is what was generated until then, and ``cache`` holds whole rows of it.

    Raises:
        NumericalError: the model's logits are not numbers.
        CallCancelledError: the call was cancelled before the first token was there.
        CallTimeoutError: its time was up before the answer was complete.
    """
    feed = _Feed(on_token)
    ending = _Ending(AnswerText(tokenizer, sampling.stop, ids.tolist()), len(ids), interrupt)
    config = sampling.config(model, tokenizer)
    cancelled = False

    def ended() -> bool:
        return ending.stopped or (bool(feed.token_ids) and feed.token_ids[-1] in end_tokens(config.eos_token_id))

    seeded: Any = nullcontext()
    if sampling.seed is not None:
        seeded = torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else [])
    with torch.no_grad(), seeded:
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        try:
            model.generate(
                input_ids=ids[None],
                attention_mask=torch.ones_like(ids)[None],
                **with_cache(model, cache),
                generation_config=config,
                stopping_criteria=[ending],
                streamer=feed,
                logits_processor=LogitsProcessorList([_Checked(), *(sampling.extra.get("logits_processor") or ())]),
            )
        except (CallCancelledError, CallTimeoutError) as error:
            if not ended() and len(feed.token_ids) < sampling.max_new_tokens:
                if isinstance(error, CallTimeoutError) or not feed.token_ids:
                    raise
                cancelled = True
        except (ValueError, TypeError) as error:
            if isinstance(error, SemShareError) or feed.token_ids:
                raise
            raise ConfigError(f"transformers could not begin the answer with these settings: {error}") from error
    if not cancelled:
        return Decoded(feed.token_ids, "stop" if ended() else "length", feed.first_token_at)
    if isinstance(cache, MergedCache):  # some layers may be a row ahead of the others
        cache.finish(len(ids) + len(feed.token_ids) - 1)
    return Decoded(feed.token_ids, "cancelled", feed.first_token_at)


def end_tokens(told: int | list[int] | None) -> list[int]:
    """The ids that end an answer, however a config or tokenizer tells them."""
    return told if isinstance(told, list) else [] if told is None else [told]


def check_logits(logits: Tensor) -> None:
    """Raises :class:`NumericalError` if any of ``logits`` is not a number."""
    if bool(logits.isnan().any()):
        raise NumericalError(
            "the model's logits are not numbers. A dtype with too small a range overflows (float16: try bfloat16 or "
            "float32), as do damaged weights. Nothing of this call was kept, and the references that it drew on left "
            "the pool; if the same call fails again, with reuse='off', the model itself is at fault."
        )


class _Checked(LogitsProcessor):
    """Lets no answer be made of logits that are not numbers."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        check_logits(scores)
        return scores


class _Feed(BaseStreamer):
    """Collects tokens as they come and notes when the first came."""

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
    """Ends at a stop string in the *generated* text; raises if the call must end.

    transformers' own ``stop_strings`` also matches a string that begins in the prompt, which would end an answer whose
    text does not contain it.
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
