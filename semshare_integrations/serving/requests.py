"""What all requests for an answer have in common: their fields, and what the engine is told."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from transformers import LogitsProcessor

from semshare_core import SemShareEngine
from semshare_core.config import Level
from semshare_core.decode.sampling import end_tokens
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.keys import Caller
from semshare_integrations.serving.penalties import CountPenalties

BYTES_PER_TOKEN = 4  # a guess for the limits of the queue, which spares them the tokenizing

Model = TypeVar("Model", bound=BaseModel)
Salt = Annotated[str, Field(min_length=1, max_length=128)]


class Strict(BaseModel):
    """A JSON object whose numbers are numbers, and whose fields are known."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


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
    top_k: int | None = Field(default=None, ge=-1)
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
            "max_new_tokens": max_new_tokens,
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
    stop: str | list[str] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[str, float] | None = None
    stream_options: StreamOptions | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    min_tokens: int = Field(default=0, ge=0)
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self, max_choices: int) -> None:
        """Raises :class:`RequestError` for fields that do not fit each other, or the server."""
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
        if self.repetition_penalty is not None:
            settings["repetition_penalty"] = self.repetition_penalty
        if self.min_tokens:
            settings["min_new_tokens"] = self.min_tokens
        if self.logit_bias:
            settings["sequence_bias"] = {(_token(name),): bias for name, bias in self.logit_bias.items()}
        if self.ignore_eos:
            settings["eos_token_id"] = self.stop_token_ids or None
        elif self.stop_token_ids:
            ends = [
                *end_tokens(engine.model.generation_config.eos_token_id),
                *end_tokens(engine.tokenizer.eos_token_id),
            ]
            settings["eos_token_id"] = [*dict.fromkeys([*ends, *self.stop_token_ids])]
        return settings

    def seed_of(self, choice: int) -> int | None:
        """The seed of the answer number ``choice``: several answers with one seed would be the same."""
        return None if self.seed is None else (self.seed + choice) % 2**63

    def processors(self) -> list[LogitsProcessor]:
        """Logits processors of one answer."""
        if not self.presence_penalty and not self.frequency_penalty:
            return []
        return [CountPenalties(self.presence_penalty, self.frequency_penalty)]


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> RequestError:
    """A request that is refused."""
    return RequestError(message, code=code, param=param)


def _token(name: str) -> int:
    if not name.isdecimal():
        raise invalid(f"Invalid key in 'logit_bias': {name!r} is not a token id.", "logit_bias")
    return int(name)


async def parsed(request: Request, model: type[Model]) -> Model:
    """The body of ``request``.

    Raises:
        RequestError: it is not JSON, lacks a field, has an unknown one, or one of the wrong type.
    """
    try:
        body = from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise invalid(f"We could not parse the JSON body of your request: {error}.", None, "invalid_json") from None
    if not isinstance(body, dict):
        raise invalid("The body of your request must be a JSON object.", None, "invalid_json")
    try:
        return model.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError as error:
        raise _mistake(error) from None


def _mistake(error: ValidationError) -> RequestError:
    """The first mistake, in OpenAI's words."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = [part for part in first["loc"] if not _is_branch(part)]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    kind = first["type"]
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind == "missing":
        return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    if kind.endswith(("_type", "_parsing")):
        return invalid(f"Invalid type for '{param}': {first['msg']}.", param, "invalid_type")
    return invalid(f"Invalid value for '{param}': {first['msg'].removeprefix('Value error, ')}.", param)


def _is_branch(part: int | str) -> bool:
    """Whether pydantic names a branch of a union here, and no field."""
    return isinstance(part, str) and (part in ("str", "int", "function-wrap") or "[" in part)


def check_model(asked: str, served: str) -> None:
    """Raises :class:`RequestError` for another model than the one that is served."""
    if asked != served:
        raise RequestError(
            f"The model `{asked}` does not exist here. This server has `{served}`.",
            404,
            code="model_not_found",
            param="model",
        )
