"""The settings of models that call tools; what holding answers to grammars needs is made along with the model."""

from __future__ import annotations

from typing import Any

from semshare_core import SemShareEngine
from semshare_integrations.adapter.fields import EngineFields
from semshare_integrations.tools import call_format, prepare


class ToolFields(EngineFields):
    """Fields of a model whose answers may be held to grammars.

    The first constraint of a tokenizer takes tenths of a second in which no other thread runs. It is made when the
    object is, or when its model is loaded, lest the first call with tools bring an event loop to a stand.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if (loaded := self._engine_source.loaded) is not None:
            prepare(*loaded)

    @property
    def engine(self) -> SemShareEngine:
        """The engine behind this object; the first use loads the model."""
        was_loaded = self._engine_source.loaded is not None
        engine = super().engine
        if not was_loaded:
            prepare(engine.model, engine.tokenizer)
        return engine

    @property
    def tool_call_form(self) -> str:
        """How the model is told of tools and calls them, and why so if not as its chat template does it."""
        return call_format(self.engine.tokenizer).told
