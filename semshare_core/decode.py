"""Decode with `model.generate` from a filled cache: sampling, stopping and token-by-token output are transformers'."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
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

from semshare_core.errors import ConfigError, NumericalError
from semshare_core.forking import undone

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
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens} must be a whole number of at least 1.")
        if not isinstance(self.temperature, (int, float)) or not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature={self.temperature} must be a finite number, 0 (greedy) or more.")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise ConfigError(f"stop={self.stop!r} must be a list of non-empty strings.")
        known = GenerationConfig().to_dict()
        unknown = sorted(set(self.extra) - set(known) - set(_NOT_HONOURED) - set(_MODEL_KWARGS))
        if unknown:
            raise ConfigError(f"unknown generation settings: {', '.join(unknown)}.")
        for name, remedy in _NOT_HONOURED.items():
            value = self.extra.get(name)
            if value is not None and value is not False and not (value == 1 and name in _ONE_IS_DEFAULT):
                raise ConfigError(f"{name}={value!r} is not supported: {remedy}.")
        if self.seed is not None and not isinstance(self.seed, int):
            raise ConfigError(f"seed={self.seed!r} must be a whole number or None.")
        penalty = self.extra.get("repetition_penalty")
        if penalty is not None and not penalty > 0:
            raise ConfigError(f"repetition_penalty={penalty!r} must be greater than 0.")
        top_p = self.extra.get("top_p")
        if top_p is not None and not 0 < top_p <= 1:
            raise ConfigError(f"top_p={top_p!r} must lie in (0, 1].")

    def config(self, model: PreTrainedModel) -> GenerationConfig:
        """The model's own generation config with these settings on top."""
        config = GenerationConfig.from_dict(model.generation_config.to_dict())
        sample = self.temperature > 0
        changes: dict[str, Any] = {"max_new_tokens": self.max_new_tokens, "do_sample": sample, "max_length": None}
        changes["temperature"] = self.temperature if sample else None
        extra = {name: value for name, value in self.extra.items() if name not in _MODEL_KWARGS}
        # some configs say no cache (mpt), and would be fed the whole prompt at every step; some bring another
        ours: dict[str, Any] = {"use_cache": True, "cache_implementation": None}
        if not sample:  # settings of sampling would only be warned about
            ours |= {"top_p": None, "top_k": None}
        config.update(**(changes | extra | ours))
        if config.pad_token_id is None:
            eos = config.eos_token_id
            config.pad_token_id = eos[0] if isinstance(eos, list) else eos
        return config


_ASSISTED = "transformers' assisted decoding begins with an empty cache, and ours is filled"
_NOT_HONOURED = {
    "assistant_model": _ASSISTED,
    "prompt_lookup_num_tokens": _ASSISTED,
    "assistant_early_exit": _ASSISTED,
    "num_beams": "one answer is decoded at a time, greedily or by sampling",
    "num_return_sequences": "one answer is decoded at a time; call again with another seed",
    "stop_strings": "use stop=[...]",
    "cache_implementation": "the engine brings its own cache",
    "max_length": "use max_new_tokens",
    "max_time": "set a limit of tokens, or cancel the stream",
    "remove_invalid_values": "logits that are not numbers end the call, and their rows are not kept",
}
_ONE_IS_DEFAULT = ("num_beams", "num_return_sequences")
_MODEL_KWARGS = ("logits_processor",)


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
    cancel: threading.Event | None = None,
    on_token: Callable[[int], None] | None = None,
) -> Decoded:
    """Generate behind ``ids`` [n]; those whose rows ``cache`` does not hold yet are computed in the first step.

    Raises:
        NumericalError: the model's logits are not numbers.
    """
    feed = _Feed(on_token)
    ending = _Ending(tokenizer, len(ids), sampling.stop, cancel)
    seeded: Any = nullcontext()
    if sampling.seed is not None:
        seeded = torch.random.fork_rng(devices=[ids.device] if ids.device.type == "cuda" else [])
    with torch.no_grad(), seeded, _no_other_cache(model):
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        model.generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            past_key_values=cache,
            generation_config=sampling.config(model),
            stopping_criteria=[ending],
            streamer=feed,
            logits_processor=LogitsProcessorList([_Checked(), *(sampling.extra.get("logits_processor") or ())]),
        )
    reason: FinishReason = "stop"
    if cancel is not None and cancel.is_set() and not ending.stopped:
        reason = "cancelled"
    elif len(feed.token_ids) >= sampling.max_new_tokens and not ending.stopped:
        ends = end_tokens(sampling.config(model).eos_token_id)
        reason = "stop" if feed.token_ids[-1] in ends else "length"
    return Decoded(feed.token_ids, reason, feed.first_token_at)


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


@contextmanager
def _no_other_cache(model: PreTrainedModel) -> Iterator[None]:
    """``generate()`` takes what a config leaves open from the model's own, and refuses two caches."""
    own = model.generation_config
    before = own.cache_implementation

    def undo() -> None:
        own.cache_implementation = before

    with undone(undo):
        own.cache_implementation = None
        yield


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
    """Ends at a stop string in the *generated* text, or when cancelled.

    transformers' own ``stop_strings`` also matches a string that begins in the prompt, which would end an answer whose
    text does not contain it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_tokens: int,
        stop: Sequence[str],
        cancel: threading.Event | None,
    ) -> None:
        self._tokenizer = tokenizer
        self._start = prompt_tokens
        self._stop = stop
        self._cancel = cancel
        self.stopped = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._stop:
            text = self._tokenizer.decode(input_ids[0, self._start :], skip_special_tokens=True)
            self.stopped = any(end in text for end in self._stop)
        done = self.stopped or (self._cancel is not None and self._cancel.is_set())
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first stop string, which is left out."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def settled_length(text: str, stop: Sequence[str]) -> int:
    """How much of a growing text will not change: not a half character, not the beginning of a stop string."""
    known = text.rstrip("\ufffd")
    begun = [
        len(known) - size
        for end_string in stop
        for size in range(1, min(len(end_string), len(known) + 1))
        if known.endswith(end_string[:size])
    ]
    return min(len(cut_at_stop(text, stop)), len(known), *begun)
