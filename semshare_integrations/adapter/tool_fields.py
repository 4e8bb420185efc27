"""The settings of models that call tools."""

from __future__ import annotations

from typing import Any

from semshare_core import SemShareEngine
from semshare_integrations.adapter.fields import EngineFields
from semshare_integrations.tools import call_format, prepare


class ToolFields(EngineFields):
    """Fields of a model that can call tools.

    Preparing a tokenizer for constraints takes some tenths of a second, and no other thread runs meanwhile. So the
    object prepares it when the model is loaded. Otherwise the first call with tools would block an event loop.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if (loaded := self._engine_source.loaded) is not None:
            prepare(*loaded)

    @property
    def engine(self) -> SemShareEngine:
        """The engine behind this object. The first use loads the model."""
        was_loaded = self._engine_source.loaded is not None
        engine = super().engine
        if not was_loaded:
            prepare(engine.model, engine.tokenizer)
        return engine

    @property
    def tool_call_form(self) -> str:
        """How the model sees tools and calls them. If its chat template cannot do that, the text says why."""
        return call_format(self.engine.tokenizer).description
