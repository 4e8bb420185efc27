"""The source of an engine. It makes the engine once, when a thread first needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import ConfigError, NotPicklableError
from semshare_core.model.arguments import check_tokenizer, unwrap_model
from semshare_core.model.load import DEMO
from semshare_core.model.support import max_context
from semshare_core.process.forking import free
from semshare_core.process.paths import located

_NAMED = ("tokenizer", "embedding")
_OF_A_LOADED_MODEL = ("pool", "embedding")


class EngineSource:
    """The source of one engine. Copies of a framework's object share it.

    Attributes:
        name: the model's name in traces and cache keys.
        dtype: the precision to load, or the loaded model's.
        policy: the default reuse policy.
        model_id: the model to load; None if the model is loaded already.
        settings: the engine's other settings.
        loaded: model and tokenizer, if they are loaded.
    """

    def __init__(
        self,
        make: Callable[[], SemShareEngine],
        *,
        name: str,
        dtype: Any,
        policy: ReusePolicy,
        model_id: str | None = None,
        settings: Mapping[str, Any] | None = None,
        loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
    ) -> None:
        self.name = name
        self.dtype = str(dtype).removeprefix("torch.")
        self.policy = policy
        self.model_id = model_id
        self.settings = dict(settings or {})
        self._make = make
        self.loaded = loaded
        self._engine: SemShareEngine | None = None
        self._lock = free(threading.Lock())

    @classmethod
    def load(cls, model_id: str, settings: Mapping[str, Any], policy: ReusePolicy) -> EngineSource:
        """Load a model by its name, with settings of :meth:`SemShareEngine.from_pretrained`."""
        # relative paths are resolved now, because the working folder may change before the first call
        place: Any = model_id if model_id == DEMO else located(model_id)
        resolved: dict[str, Any] = {k: located(value) if k in _NAMED else value for k, value in settings.items()}
        make = partial(SemShareEngine.from_pretrained, place, policy=policy, **resolved)
        dtype = settings.get("dtype", "auto")
        return cls(make, name=model_id, dtype=dtype, policy=policy, model_id=model_id, settings=settings)

    @classmethod
    def around(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: Mapping[str, Any],
        policy: ReusePolicy,
    ) -> EngineSource:
        """Serve a loaded model."""
        _refuse("model=", settings, allowed=_OF_A_LOADED_MODEL)
        model = unwrap_model(model)
        check_tokenizer(tokenizer)
        make = partial(SemShareEngine, model, tokenizer, policy=policy, **settings)
        name, loaded = _name_of(model), (model, tokenizer)
        return cls(make, name=name, dtype=model.dtype, policy=policy, settings=settings, loaded=loaded)

    @classmethod
    def of_engine(cls, engine: SemShareEngine, settings: Mapping[str, Any]) -> EngineSource:
        """Use a running engine."""
        _refuse("engine=", settings, allowed=())
        model, loaded = engine.model, (engine.model, engine.tokenizer)
        return cls(lambda: engine, name=_name_of(model), dtype=model.dtype, policy=engine.policy, loaded=loaded)

    @property
    def context(self) -> int | None:
        """The model's context in tokens; None before the model is loaded."""
        return None if self.loaded is None else max_context(self.loaded[0])

    def adapted(self, model_id: str, settings: Mapping[str, Any], policy: ReusePolicy) -> EngineSource:
        """This source if it has these settings, otherwise a new one."""
        if self.settings == settings and self.model_id in (None, model_id):
            return self
        if self.model_id is None:
            raise ConfigError("settings for loading cannot change a model that is loaded already.")
        return EngineSource.load(model_id, settings, policy)

    def get(self) -> SemShareEngine:
        """The engine. The first call makes it."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make()
                self.loaded = (self._engine.model, self._engine.tokenizer)
            return self._engine

    def __reduce__(self) -> tuple[Callable[..., EngineSource], tuple[Any, ...]]:
        """Pickle the settings. The copy loads the model on first use.

        Raises:
            NotPicklableError: the model was given as an object.
        """
        if self.model_id is None:
            raise NotPicklableError(
                "engine= and model= are objects of this process and cannot be pickled: pass model_id=..., a folder or "
                "hub id that each process can load. (copy.copy and copy.deepcopy share the engine.)"
            )
        return EngineSource.load, (self.model_id, self.settings, self.policy)

    def __copy__(self) -> EngineSource:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineSource:
        return self  # copies of the settings share the weights


def _refuse(argument: str, settings: Mapping[str, Any], *, allowed: tuple[str, ...]) -> None:
    if superfluous := sorted(set(settings) - set(allowed)):
        raise ConfigError(f"{', '.join(superfluous)} cannot be set together with {argument}, which is loaded already.")


def _name_of(model: PreTrainedModel) -> str:
    # each nameless model gets its own name, or a response cache would confuse models of one class
    return model.name_or_path or f"{type(model).__name__}-{id(model):x}"
