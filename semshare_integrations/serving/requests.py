"""What all requests for an answer have in common: their fields, and what the engine is told."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any

from pydantic import Field
from transformers import LogitsProcessor, RepetitionPenaltyLogitsProcessor

from semshare_core import SemShareEngine
from semshare_core.config import Level
from semshare_core.decode.sampling import end_tokens
from semshare_core.model.support import vocabulary_size
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.keys import Caller
from semshare_integrations.serving.parsing import Biases, Stops, Strict, Tokens, invalid
from semshare_integrations.serving.penalties import CountPenalties, LeastTokens, TokenBias

BYTES_PER_TOKEN = 4  # a guess for the limits of the queue, which spares them the tokenizing

Salt = Annotated[str, Field(min_length=1, max_length=128)]


class SemShareOptions(Strict):
    """The object ``semshare`` in a request.

    Attributes:
        reuse: the level; default: the server's.
        store: keep prompt and answer in the pool.
    """

    reuse: Level | None = None
    store: bool = True


class Hints(Strict):
    """Fields that are accepted because clients send them, and that change no answer."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    cache_control: Any = None
    priority: int = 0


class Common(Hints):
    """The fields of every request for an answer."""

    model: str
    stream: bool = False
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    cache_salt: Salt | None = None
    request_id: str | None = Field(default=None, max_length=128)
    semshare: SemShareOptions = SemShareOptions()

    def engine_settings(self, engine: SemShareEngine, caller: Caller, max_new_tokens: int) -> dict[str, Any]:
        """Settings of :meth:`SemShareEngine.stream`. What is left out is the model's own, as in vLLM."""
        temperature = self.temperature
        if temperature is None:
            own = engine.model.generation_config.temperature
            temperature = 1.0 if own is None else float(own)
        settings: dict[str, Any] = {
            # more than the context is never generated, and must not count against the others' tokens in the queue
            "max_new_tokens": min(max_new_tokens, engine.context),
            "temperature": temperature,
            "namespace": caller.namespace(self.cache_salt),
            "reuse": self.semshare.reuse,
            "store": self.semshare.store,
        }
        if self.top_p is not None:
            settings["top_p"] = self.top_p
        if self.top_k is not None:
            settings["top_k"] = max(self.top_k, 0)  # vLLM's -1 is transformers' 0: no limit
        return settings


class StreamOptions(Strict):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Sampled(Common):
    """The fields of OpenAI's completions, and vLLM's additions to them."""

    n: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: Biases | None = None
    stream_options: StreamOptions | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)
    min_tokens: int = Field(default=0, ge=0)
    stop_token_ids: Tokens | None = None
    ignore_eos: bool = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self, max_choices: int, engine: SemShareEngine) -> None:
        """Raises :class:`RequestError` for fields that do not fit each other, or the server."""
        vocabulary = vocabulary_size(engine.model)
        if any(token >= vocabulary for token in self.stop_token_ids or ()):
            raise invalid(f"A token id is not below {vocabulary}, as this model's are.", "stop_token_ids")
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options is only allowed when stream is true.", "stream_options")
        if self.n > max_choices:
            raise invalid(f"n={self.n} is more than this server's limit of {max_choices}.", "n")

    def engine_settings(self, engine: SemShareEngine, caller: Caller, max_new_tokens: int) -> dict[str, Any]:
        """Settings of :meth:`SemShareEngine.stream`."""
        settings = super().engine_settings(engine, caller, max_new_tokens)
        settings["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if self.min_p is not None:
            settings["min_p"] = self.min_p
        if self._repetition(engine) != 1:
            settings["repetition_penalty"] = 1.0  # processors() has it, behind the log probabilities
        if self.ignore_eos:
            settings["eos_token_id"] = self.stop_token_ids or None
        elif self.stop_token_ids:
            settings["eos_token_id"] = self._ends(engine)
        return settings

    def _ends(self, engine: SemShareEngine) -> list[int]:
        """The tokens that end an answer."""
        own = [*end_tokens(engine.model.generation_config.eos_token_id), *end_tokens(engine.tokenizer.eos_token_id)]
        return [*dict.fromkeys([*([] if self.ignore_eos else own), *(self.stop_token_ids or ())])]

    def seed_of(self, choice: int) -> int | None:
        """The seed of the answer number ``choice``: several answers with one seed would be the same."""
        return None if self.seed is None else (self.seed + choice) % 2**63

    def processors(self, engine: SemShareEngine) -> list[LogitsProcessor]:
        """Logits processors of one answer, in transformers' order. Raises :class:`RequestError` for unknown tokens."""
        processors: list[LogitsProcessor] = []
        if self.min_tokens:
            processors.append(LeastTokens(self.min_tokens, self._ends(engine)))
        if self.logit_bias:
            vocabulary = vocabulary_size(engine.model)
            processors.append(TokenBias({_token(name, vocabulary): bias for name, bias in self.logit_bias.items()}))
        if (penalty := self._repetition(engine)) != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        if self.presence_penalty or self.frequency_penalty:
            processors.append(CountPenalties(self.presence_penalty, self.frequency_penalty))
        return processors

    def _repetition(self, engine: SemShareEngine) -> float:
        """The request's penalty, or else the model's own."""
        own = self.repetition_penalty
        return float(engine.model.generation_config.repetition_penalty or 1.0) if own is None else own


def too_long(what: str, context: int, param: str) -> RequestError:
    """A prompt that cannot fit, which is known without reading it."""
    return invalid(f"{what}: this model's context has {context} tokens.", param, "context_length_exceeded")


def check_count(messages: Sized, engine: SemShareEngine, param: str) -> None:
    """Raises :class:`RequestError` for more messages than the context has tokens: each has one at least."""
    if len(messages) > engine.context:
        raise too_long(f"These are {len(messages)} {param}", engine.context, param)


def _token(name: str, vocabulary: int) -> int:
    # the length first: Python refuses to read numbers of thousands of digits
    if not (name.isascii() and name.isdecimal()) or len(name) > 9 or int(name) >= vocabulary:
        raise invalid(
            f"Invalid key in 'logit_bias': {name[:32]!r} is not a token id. This model's are below {vocabulary}.",
            "logit_bias",
        )
    return int(name)


def check_model(asked: str, served: str) -> None:
    """Raises :class:`RequestError` for another model than the one that is served."""
    if asked != served:
        raise RequestError(
            f"The model `{asked}` does not exist here. This server has `{served}`.",
            404,
            code="model_not_found",
            param="model",
        )
