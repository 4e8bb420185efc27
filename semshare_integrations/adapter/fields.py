"""The settings that the frameworks' models take, and the engine behind them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.config import Level, resolve_policy
from semshare_core.engine import DEFAULT_NAMESPACE
from semshare_core.errors import ConfigError
from semshare_core.model.load_settings import unknown_loading
from semshare_core.suggestion import did_you_mean
from semshare_integrations.adapter.source import EngineSource

_NUMBERS = ("max_new_tokens", "temperature", "top_p", "seed", "timeout", "max_retries", "batch_size", "context_window")
_LOADING = ("gguf_file", "dtype", "device", "device_map", "pool")


class EngineFields(BaseModel):
    """Fields of a framework's model that answers through a :class:`~semshare_core.SemShareEngine`.

    Pass ``model_id=`` (loaded on first use), ``model=`` and ``tokenizer=`` (transformers objects), or ``engine=``.
    Objects with the same engine share the loaded model and the pool.

    Attributes:
        model_id: hub id, local folder, ``.gguf`` file or ``"demo"``. With ``engine=`` or ``model=`` it is only a name.
        gguf_file: name of a GGUF file in the folder or hub repository ``model_id``.
        model_kwargs: other settings of :meth:`~semshare_core.SemShareEngine.from_pretrained`, such as ``embedding``
            (the framework's embedding object, a folder or a function), and of transformers' loading, such as
            ``quantization_config``, ``attn_implementation``, ``revision`` or ``trust_remote_code``.
        device: the device of the whole model; default: CUDA, else MPS, else the CPU.
        device_map: accelerate's placement on several devices, instead of ``device``.
        dtype: for example ``"bfloat16"`` or a torch dtype; default: the saved dtype.
        pool: how many earlier prompts are stored, and where.
        max_new_tokens: the largest number of generated tokens; ``max_tokens`` is accepted, too.
        temperature: 0 is greedy, otherwise sampling.
        top_p: nucleus sampling, if ``temperature`` is above 0.
        seed: makes sampling repeatable.
        stop: an answer ends before the first of these strings.
        reuse: a level (``off``, ``exact``, ``high``, ``balanced``, ``fast``) or a
            :class:`~semshare_core.ReusePolicy`; default: the engine's policy, which is ``balanced`` by default.
        namespace: prompts of this namespace serve each other.
        timeout: in seconds. A late call raises :class:`TimeoutError`, and the model is free again within the time of
            one layer. The loading of the model does not count.
        source: the source of the engine. Frameworks rebuild objects from their fields (``configurable_fields``); with
            this field the new object shares the loaded model.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model_id: str = ""
    gguf_file: str | None = None
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    device: str | torch.device | None = None
    device_map: Any = None
    dtype: str | torch.dtype | None = None
    pool: PoolConfig | None = None
    max_new_tokens: int = Field(default=128, ge=1, validation_alias=AliasChoices("max_new_tokens", "max_tokens"))
    temperature: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    stop: list[str] | None = None
    reuse: Level | ReusePolicy | None = None
    namespace: str = Field(default=DEFAULT_NAMESPACE, min_length=1)
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    source: EngineSource | None = Field(default=None, exclude=True, repr=False)

    def __init__(
        self,
        *,
        engine: SemShareEngine | None = None,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        **settings: Any,
    ) -> None:
        if isinstance(model, str | os.PathLike):
            raise ConfigError(
                f"model={os.fspath(model)!r} is a name, and model= takes a transformers object. Did you mean "
                f"model_id={os.fspath(model)!r}?"
            )
        if engine is not None and not isinstance(engine, SemShareEngine):
            raise ConfigError(
                f"engine={engine!r} is a {type(engine).__name__}, not a SemShareEngine: make one with "
                "SemShareEngine.from_pretrained(...), or pass model_id=."
            )
        tokenizer = os.fspath(tokenizer) if isinstance(tokenizer, os.PathLike) else tokenizer
        super().__init__(**settings)
        self.source = self._find_source(engine, model, tokenizer)
        self.model_id = self.model_id or self.source.name

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle the settings without the loaded model.

        Raises:
            NotPicklableError: the model was given as an object.
        """
        self._engine_source.__reduce__()
        # LlamaIndex deletes from the object what it cannot pickle: it gets a copy, and our fields are put back
        state = super(EngineFields, self.model_copy()).__getstate__()
        state["__dict__"] |= {name: self.__dict__[name] for name in ("source", "model_kwargs")}
        return state

    @model_validator(mode="before")
    @classmethod
    def _names_are_known(cls, settings: Any) -> Any:
        if not isinstance(settings, dict):
            return settings
        if "max_tokens" in settings:
            cls.one_name(settings)
        names = set(cls.model_fields)
        for field in cls.model_fields.values():
            names |= {field.alias} if field.alias else set()
            if isinstance(field.validation_alias, AliasChoices):
                names |= {name for name in field.validation_alias.choices if isinstance(name, str)}
        if unknown := sorted(set(settings) - names):
            hint = did_you_mean(unknown, names)
            raise ValueError(f"{cls.__name__} has no setting {', '.join(unknown)}.{hint}")
        return settings

    @field_validator("model_id", "gguf_file", mode="before")
    @classmethod
    def _is_a_name(cls, name: Any) -> Any:
        return os.fspath(name) if isinstance(name, os.PathLike) else name

    @field_validator("*", mode="before")
    @classmethod
    def _is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a text such as ``"5"``, as the engine does in a call."""
        if info.field_name in _NUMBERS and isinstance(value, str | bool):
            raise ValueError(f"{info.field_name}={value!r} is a {type(value).__name__}, but must be a number")
        return value

    @field_validator("stop", mode="before")
    @classmethod
    def _is_a_list(cls, stop: Any) -> Any:
        if isinstance(stop, str):
            raise ValueError(f"stop={stop!r} must be a list of strings: stop=[{stop!r}]")
        return stop

    @property
    def engine(self) -> SemShareEngine:
        """The engine behind this object. The first use loads the model."""
        return self._engine_source.get()

    @property
    def _engine_source(self) -> EngineSource:
        assert self.source is not None
        return self.source

    def call_settings(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of one call of the engine. The call's settings override the fields, except where they are None.

        The engine checks the values, and refuses unknown settings.
        """
        call = self.one_name(overrides)
        if "cancel" in call:
            raise ConfigError("cancel= is for the engine: close the stream, cancel the task, or pass timeout=.")
        if stop is not None:
            call["stop"] = stop
        fields = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stop": self.stop,
            "reuse": self.reuse,
            "namespace": self.namespace,
            "timeout": self.timeout,
        }
        settings = fields | {name: value for name, value in call.items() if value is not None or name not in fields}
        if settings["top_p"] is None or settings["temperature"] == 0:
            del settings["top_p"]
        return settings

    @staticmethod
    def one_name(settings: Mapping[str, Any]) -> dict[str, Any]:
        """Rename ``max_tokens`` to ``max_new_tokens``."""
        renamed = dict(settings)
        if "max_tokens" in renamed:
            if "max_new_tokens" in renamed:
                raise ConfigError("max_tokens and max_new_tokens are the same setting: pass one of them.")
            renamed["max_new_tokens"] = renamed.pop("max_tokens")
        return renamed

    def identity(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """All settings that an answer depends on, for cache keys. JSON-able; does not load the model."""
        settings = self.call_settings(None, overrides)
        del settings["timeout"]  # a complete answer does not depend on it
        policy = resolve_policy(settings.pop("reuse"), self._engine_source.policy)
        return {
            "model_id": self.model_id,
            "gguf_file": self.gguf_file,
            "dtype": self._engine_source.dtype,
            "model_kwargs": {
                name: _described(value)
                for name, value in sorted(self.model_kwargs.items())
                if name != "token"  # a secret
            },
            # LangChain overwrites "stop" by the call's stop strings, even if there are none
            "default_stop": settings.pop("stop"),
            "reuse": policy.model_dump(mode="json"),
            **settings,
        }

    def _find_source(
        self,
        engine: SemShareEngine | None,
        model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase | str | None,
    ) -> EngineSource:
        settings = {name: value for name in _LOADING if (value := getattr(self, name)) is not None}
        settings |= self._checked_model_kwargs()
        if engine is not None:
            if model is not None or tokenizer is not None:
                raise ConfigError("engine= brings its model and tokenizer: leave model= and tokenizer= out.")
            return EngineSource.of_engine(engine, settings)
        policy = resolve_policy(self.reuse, ReusePolicy(level="balanced"))
        if model is not None:
            if tokenizer is None or isinstance(tokenizer, str):
                raise ConfigError("model= needs its tokenizer, too: tokenizer=AutoTokenizer.from_pretrained(...).")
            return EngineSource.around(model, tokenizer, settings, policy)
        if tokenizer is not None:
            self.model_kwargs = {**self.model_kwargs, "tokenizer": tokenizer}
            settings["tokenizer"] = tokenizer
        if self.source is not None:
            return self.source.adapted(self.model_id, settings, policy)
        if not self.model_id:
            raise ConfigError("Which model? Pass model_id= (such as 'demo'), model= with tokenizer=, or engine=.")
        return EngineSource.load(self.model_id, settings, policy)

    def _checked_model_kwargs(self) -> dict[str, Any]:
        """``model_kwargs`` as arguments of ``from_pretrained``, with transformers' own in its ``model_kwargs``."""
        parameters = inspect.signature(SemShareEngine.from_pretrained).parameters
        ours = set(parameters) - {*_LOADING, "model_id", "policy", "model_kwargs"}
        error = unknown_loading(self.model_kwargs, (*ours, "torch_dtype"))
        if error is not None:
            raise error
        settings = {name: value for name, value in self.model_kwargs.items() if name in ours}
        if loading := {name: value for name, value in self.model_kwargs.items() if name not in ours}:
            settings["model_kwargs"] = loading
        return settings


def token_usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts under OpenAI's names."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _described(value: Any) -> str:
    if isinstance(value, str | os.PathLike | bool | int | float | dict | list):
        return str(value)
    if callable(to_dict := getattr(value, "to_dict", None)) and not isinstance(value, type):
        return str(to_dict())  # a model that is quantised in another way is another model
    return getattr(value, "__qualname__", type(value).__qualname__)
