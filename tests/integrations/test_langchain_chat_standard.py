"""LangChain's standard suites for chat models, on the real demo model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from semshare_core import SemShareEngine
from semshare_integrations.langchain import ChatSemShare

CONTEXT = "The lighthouse at Vinga was built in 1890. It is open to visitors on Sundays from May to August. " * 6


@pytest.fixture(scope="module", autouse=True)
def one_engine(request: pytest.FixtureRequest) -> None:
    """The suites make many models; they share one engine, as users' objects should."""
    engine = SemShareEngine.from_pretrained("demo")
    for name in ("TestUnit", "TestIntegration"):
        getattr(request.module, name).engine = engine


class _Suite:
    engine: SemShareEngine

    @property
    def chat_model_class(self) -> type[ChatSemShare]:
        return ChatSemShare

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine}

    @property
    def supports_model_override(self) -> bool:
        return False  # an object is one model


@pytest.mark.real
class TestUnit(_Suite, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        params = super().standard_chat_model_params
        del params["api_key"]  # a local model has none
        return params


@pytest.mark.real
class TestIntegration(_Suite, ChatModelIntegrationTests):
    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[str, list[str]]:
        details = ["cache_read_input", "cache_creation_input"]
        return {"invoke": details, "stream": details}

    @pytest.mark.xfail(reason="left to itself, a model of 135M that never learned tools answers in words")
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: ChatSemShare) -> None:
        super().test_agent_loop(model)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatSemShare(engine=self.engine, max_tokens=8, namespace="cache read")
        self.ask(model, CONTEXT + "\n\nWhen was it built?", stream)
        answer = self.ask(model, CONTEXT + "\n\nOn which days is it open?", stream)
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["input_token_details"]["cache_read"] > 100
        return answer

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        self.engine.pool.clear("cache creation")
        model = ChatSemShare(engine=self.engine, max_tokens=8, namespace="cache creation")
        answer = self.ask(model, CONTEXT, stream)
        assert answer.usage_metadata is not None
        details = answer.usage_metadata["input_token_details"]
        assert details["cache_creation"] == answer.usage_metadata["input_tokens"]
        assert details["cache_read"] == 0
        return answer

    @staticmethod
    def ask(model: ChatSemShare, prompt: str, stream: bool) -> AIMessage:
        if not stream:
            return model.invoke(prompt)
        full: BaseMessageChunk | None = None
        for chunk in model.stream(prompt):
            full = chunk if full is None else full + chunk
        assert isinstance(full, AIMessage)
        return full
