"""Where an engine comes from: made when it is first needed, once, whichever thread comes first."""

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
    """An engine to be, shared by every object that was copied from the one that described it.

    Attributes:
        name: what the model is called in traces and cache keys.
        dtype: the precision asked for, or the one that a model given as an object has.
        policy: what calls reuse that do not say.
        model_id: the model to load; None if it was given as an object.
        settings: what else the engine is made with.
        loaded: model and tokenizer, where they are loaded already.
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
        """Load a model by its name, with other settings of :meth:`SemShareEngine.from_pretrained`."""
        place: Any = model_id if model_id == DEMO else located(model_id)  # read when the first call comes
        given: dict[str, Any] = {name: located(value) if name in _NAMED else value for name, value in settings.items()}
        make = partial(SemShareEngine.from_pretrained, place, policy=policy, **given)
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
        """Serve a model that is loaded already."""
        _refuse("model=", settings, allowed=_OF_A_LOADED_MODEL)
        model = unwrap_model(model)
        check_tokenizer(tokenizer)
        make = partial(SemShareEngine, model, tokenizer, policy=policy, **settings)
        name, loaded = _name_of(model), (model, tokenizer)
        return cls(make, name=name, dtype=model.dtype, policy=policy, settings=settings, loaded=loaded)

    @classmethod
    def given(cls, engine: SemShareEngine, settings: Mapping[str, Any]) -> EngineSource:
        """Use an engine that is running already."""
        _refuse("engine=", settings, allowed=())
        model, loaded = engine.model, (engine.model, engine.tokenizer)
        return cls(lambda: engine, name=_name_of(model), dtype=model.dtype, policy=engine.policy, loaded=loaded)

    @property
    def context(self) -> int | None:
        """The model's context in tokens; None before it is loaded."""
        return None if self.loaded is None else max_context(self.loaded[0])

    def adapted(self, model_id: str, settings: Mapping[str, Any], policy: ReusePolicy) -> EngineSource:
        """This source if it fits the description, otherwise another that does."""
        if self.settings == settings and self.model_id in (None, model_id):
            return self
        if self.model_id is None:
            raise ConfigError("how a model is loaded cannot be changed when it was given as an object.")
        return EngineSource.load(model_id, settings, policy)

    def get(self) -> SemShareEngine:
        """The engine, made now if this is the first call."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make()
                self.loaded = (self._engine.model, self._engine.tokenizer)
            return self._engine

    def __reduce__(self) -> tuple[Callable[..., EngineSource], tuple[Any, ...]]:
        """As a description: the copy loads the model on first use.

        Raises:
            NotPicklableError: there is none, for an object was given.
        """
        if self.model_id is None:
            raise NotPicklableError(
                "engine= and model= are objects of this process and cannot be pickled: pass model_id=..., a folder or "
                "hub id that every process loads by itself. (copy.copy and copy.deepcopy share the engine.)"
            )
        return EngineSource.load, (self.model_id, self.settings, self.policy)

    def __copy__(self) -> EngineSource:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> EngineSource:
        return self  # who copies settings does not want the weights twice


def _refuse(given: str, settings: Mapping[str, Any], *, allowed: tuple[str, ...]) -> None:
    if superfluous := sorted(set(settings) - set(allowed)):
        raise ConfigError(f"{', '.join(superfluous)} cannot be set together with {given}, which is loaded already.")


def _name_of(model: PreTrainedModel) -> str:
    # a nameless model gets a name of its own, or a response cache would mistake it for another of its class
    return model.name_or_path or f"{type(model).__name__}-{id(model):x}"
