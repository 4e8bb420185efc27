"""LlamaIndex's ``OpenAILike``, unchanged, against the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from semshare_integrations.serving import Keys
from served import ALICE, MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Where is Vinga, and when may I visit the island? " * 3


class Visit(BaseModel):
    """A visit."""

    day: int


def weather(days: int) -> str:
    """The weather of the next days."""
    return f"rain for {days} days"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(), Keys([ALICE])) as running:
        yield running


def llm(served: Served, **settings: Any) -> OpenAILike:
    base = {"temperature": 0.0, "max_tokens": 10, "max_retries": 0, "context_window": 4096}
    return OpenAILike(model=MODEL, api_base=f"{served.url}/v1", api_key=ALICE, **{**base, **settings})


def test_by_default_it_asks_for_completions(served: Served) -> None:
    text = llm(served)
    assert not text.metadata.is_chat_model
    expected = served.engine.generate(TEXT, max_new_tokens=10, store=False).text
    assert text.complete(TEXT).text == expected
    assert "".join(piece.delta or "" for piece in text.stream_complete(TEXT)) == expected


def test_a_chat_and_its_stream(served: Served) -> None:
    chat = llm(served, is_chat_model=True)
    asked = [ChatMessage("Be brief.", role="system"), ChatMessage(TEXT)]
    answer = chat.chat(asked)
    raw: Any = answer.raw
    assert raw.usage.completion_tokens == 10
    assert raw.model_extra["semshare"]["outcome"]
    *_, last = list(chat.stream_chat(asked))
    assert last.message.content == answer.message.content


async def test_async_answers_are_the_same(served: Served) -> None:
    chat = llm(served, is_chat_model=True)
    assert (await chat.acomplete(TEXT)).text == chat.complete(TEXT).text


def test_tools(served: Served) -> None:
    chat = llm(served, is_chat_model=True, is_function_calling_model=True, max_tokens=200)
    tools = [FunctionTool.from_defaults(weather)]
    for stream in (False, True):
        if stream:
            *_, answer = list(chat.stream_chat_with_tools(tools, TEXT, tool_required=True))
        else:
            answer = chat.chat_with_tools(tools, TEXT, tool_required=True)
        [call] = chat.get_tool_calls_from_response(answer)
        assert call.tool_name == "weather"
        assert isinstance(call.tool_kwargs["days"], int)


def test_structured_output(served: Served) -> None:
    chat = llm(served, is_chat_model=True, is_function_calling_model=True, max_tokens=200)
    assert isinstance(chat.as_structured_llm(Visit).complete(TEXT).raw, Visit)
