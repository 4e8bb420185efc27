"""The fields of LangChain models, and their tracing parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.language_models.base import LangSmithParams

from semshare_integrations.adapter import EngineFields


class LangChainFields(EngineFields):
    """Fields of a LangChain model that answers through a :class:`SemShareEngine`."""

    def tracing(
        self, kind: Literal["llm", "chat"], stop: list[str] | None, overrides: Mapping[str, Any]
    ) -> LangSmithParams:
        """A call's parameters for LangSmith."""
        temperature = overrides.get("temperature")
        max_tokens = overrides.get("max_new_tokens", overrides.get("max_tokens"))
        params = LangSmithParams(
            ls_provider="semshare",
            ls_model_name=overrides.get("model") or self.model_id,
            ls_model_type=kind,
            ls_temperature=self.temperature if temperature is None else temperature,
            ls_max_tokens=self.max_new_tokens if max_tokens is None else max_tokens,
        )
        if stop := self.stop if stop is None else stop:
            params["ls_stop"] = stop
        return params
