"""How an answer is generated: the settings of one request, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import ConfigDict, Field, field_validator
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from semshare_core.config import Settings
from semshare_core.decode.settings import check_settings, settled_config
from semshare_core.errors import ConfigError
from semshare_core.model.support import vocabulary_size

_COLDEST = 1e-6
_OURS = ("max_new_tokens", "temperature", "stop", "seed", "logits_processor")


class SamplingParams(Settings):
    """How an answer is generated: ``SamplingParams(max_new_tokens=64, temperature=0.7, top_p=0.9, stop=["\\n\\n"])``.

    Beside the attributes it takes every field of transformers' ``GenerationConfig``; ``decode/settings.py`` says what
    becomes of each. A field that is left out has the value of the model's own generation config.

    Attributes:
        max_new_tokens: at most so many tokens are generated.
        temperature: 0 is greedy, otherwise sampling.
        stop: the answer ends before the first of these strings, which may be or contain special tokens.
        seed: makes sampling repeatable; torch takes 64 bits.
        logits_processor: transformers' logits processors, called at every token.

    Raises:
        ConfigError: a value that cannot be honoured, or an unknown name.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    stop: tuple[str, ...] = ()
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    logits_processor: list[Callable[..., Any]] | None = None
    do_sample: bool | None = None
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = Field(default=None, gt=0)
    no_repeat_ngram_size: int | None = None
    min_new_tokens: int | None = None
    max_time: float | None = Field(default=None, gt=0, allow_inf_nan=True)
    prefill_chunk_size: int | None = Field(default=None, ge=1)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        check_settings(self._generation_fields)
        if self.do_sample is not None and self.do_sample != (self.temperature > 0):
            what = "is greedy" if self.temperature == 0 else "samples"
            remedy = "temperature=0 is greedy"
            if self.do_sample:
                remedy = "temperature=1.0 samples as transformers does by default"
            raise ConfigError(
                f"do_sample={self.do_sample!r} contradicts temperature={self.temperature:g}, which {what}: {remedy}."
            )

    @field_validator(
        "max_new_tokens", "seed", "top_k", "no_repeat_ngram_size", "min_new_tokens", "prefill_chunk_size", mode="before"
    )
    @classmethod
    def _whole_number(cls, number: Any) -> Any:
        """NumPy's whole numbers, too."""
        return int(number) if isinstance(number, np.integer) else number

    @field_validator("do_sample", mode="before")
    @classmethod
    def _yes_or_no(cls, answer: Any) -> Any:
        return bool(answer) if isinstance(answer, int | np.bool_) else answer

    @field_validator("temperature")
    @classmethod
    def _can_divide(cls, temperature: float) -> float:
        if 0 < temperature < _COLDEST:
            raise ValueError("too small to sample with, for scores divided by it are no numbers any more: 0 is greedy")
        return temperature

    @field_validator("stop", mode="before")
    @classmethod
    def _list_of_strings(cls, stop: Any) -> Any:
        if isinstance(stop, str):
            raise ValueError(f"must be a list of strings: stop=[{stop!r}]")
        try:
            strings = tuple(dict.fromkeys(stop or ()))
        except TypeError:
            raise ValueError("must be a list of strings") from None
        if not all(isinstance(text, str) and text for text in strings):
            raise ValueError("must be a list of non-empty strings")
        return strings

    @field_validator("logits_processor", mode="before")
    @classmethod
    def _list_of_processors(cls, processors: Any) -> Any:
        if processors is not None and not isinstance(processors, list | tuple):
            raise ValueError("must be a list of logits processors")
        return processors if processors is None else list(processors)

    @property
    def _generation_fields(self) -> dict[str, Any]:
        """The fields of ``GenerationConfig`` that were set, None included."""
        return {name: value for name, value in self if name in self.model_fields_set and name not in _OURS}

    def ending_as(self, model: PreTrainedModel) -> SamplingParams:
        """These settings with the stop strings of the model's own generation config."""
        own = getattr(model.generation_config, "stop_strings", None) or ()
        stop = dict.fromkeys((*self.stop, *((own,) if isinstance(own, str) else own)))
        return self.model_copy(update={"stop": tuple(stop)})

    def config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
        """The model's own generation config with these settings on top.

        The token with which the tokenizer ends a text ends an answer, too, unless ``eos_token_id`` is set: some chat
        models have a config that does not know the end of a turn.
        """
        sample = self.temperature > 0
        fields = self._generation_fields
        config = settled_config(model, fields, samples=sample)
        config.max_new_tokens, config.do_sample = self.max_new_tokens, sample
        config.temperature = self.temperature if sample else None
        if "eos_token_id" not in fields:
            ends = dict.fromkeys([*end_tokens(config.eos_token_id), *end_tokens(tokenizer.eos_token_id)])
            config.eos_token_id = list(ends) or None
        if config.pad_token_id is None:
            config.pad_token_id = next(iter(end_tokens(config.eos_token_id)), None)
        words = vocabulary_size(model)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if any(not 0 <= token < words for token in end_tokens(getattr(config, name))):
                raise ConfigError(f"{name}={getattr(config, name)!r} must lie in [0, {words}).")
        return config


def end_tokens(ids: int | list[int] | None) -> list[int]:
    """The ids that end an answer, as a list; a config or tokenizer may have one, several or none."""
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
