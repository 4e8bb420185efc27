"""LangChain's ``ChatOpenAI``, unchanged, against the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

from semshare_integrations.serving import Keys
from served import ALICE, MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Where is Vinga, and when may I visit the island? " * 3


class Place(BaseModel):
    """A place."""

    kind: Literal["island", "town"]
    year: int


def weather(days: int) -> str:
    """The weather of the next days."""
    return f"rain for {days} days"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(), Keys([ALICE])) as running:
        yield running


def chat(served: Served, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=MODEL,
        base_url=f"{served.url}/v1",
        api_key=ALICE,
        **{"temperature": 0, "max_completion_tokens": 12, "max_retries": 0, **settings},
    )


def test_an_answer_and_its_usage(served: Served) -> None:
    llm = chat(served)
    first = llm.invoke(TEXT)
    again = llm.invoke(TEXT)
    assert again.content == first.content
    assert again.usage_metadata is not None
    assert again.usage_metadata["output_tokens"] == 12
    assert again.usage_metadata["input_token_details"]["cache_read"] == again.usage_metadata["input_tokens"] - 1
    assert again.response_metadata["finish_reason"] == "length"
    assert again.response_metadata["model_name"] == MODEL


def test_a_stream_counts_its_usage_once(served: Served) -> None:
    llm = chat(served, stream_usage=True)
    chunks = list(llm.stream(TEXT))
    full = chunks[0]
    for chunk in chunks[1:]:
        full += chunk
    assert isinstance(full, AIMessageChunk)
    whole = llm.invoke(TEXT)
    assert full.content == whole.content
    assert full.usage_metadata == whole.usage_metadata
    assert len(chunks) > 5


async def test_async_answers_are_the_same(served: Served) -> None:
    llm = chat(served)
    assert (await llm.ainvoke(TEXT)).content == llm.invoke(TEXT).content
    assert "".join([str(chunk.content) async for chunk in llm.astream(TEXT)]) == llm.invoke(TEXT).content


@pytest.mark.parametrize("stream", [False, True])
def test_tools_are_called_and_their_results_read(served: Served, stream: bool) -> None:
    llm = chat(served, max_completion_tokens=200).bind_tools([weather], tool_choice="any")
    asked: list[Any] = [HumanMessage(TEXT)]
    if stream:
        chunks = list(llm.stream(asked))
        full = chunks[0]
        for chunk in chunks[1:]:
            full += chunk
        message: Any = full
    else:
        message = llm.invoke(asked)
    [call] = message.tool_calls
    assert (call["name"], list(call["args"])) == ("weather", ["days"])
    assert call["id"].startswith("call_")
    assert message.response_metadata["finish_reason"] == "tool_calls"
    answered = chat(served).invoke([*asked, message, ToolMessage("rain", tool_call_id=call["id"])])
    assert isinstance(answered, AIMessage)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object_of_the_class(served: Served, method: Any) -> None:
    llm = chat(served, max_completion_tokens=200).with_structured_output(Place, method=method)
    assert isinstance(llm.invoke(TEXT), Place)


def test_json_mode_gives_an_object(served: Served) -> None:
    llm = chat(served, max_completion_tokens=200).with_structured_output(None, method="json_mode")
    assert isinstance(llm.invoke(TEXT), dict)
    *_, last = llm.stream(TEXT)
    assert isinstance(last, dict)


def test_log_probabilities_arrive(served: Served) -> None:
    message = chat(served, logprobs=True, top_logprobs=2).invoke(TEXT)
    assert len(message.response_metadata["logprobs"]["content"]) == 12


def test_the_responses_api(served: Served) -> None:
    llm = chat(served, use_responses_api=True, max_completion_tokens=20)
    message = llm.invoke(TEXT)
    assert message.text == chat(served, max_completion_tokens=20).invoke(TEXT).text
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == 20
    streamed = "".join(chunk.text for chunk in llm.stream(TEXT))
    assert streamed == message.text


def test_a_text_model(served: Served) -> None:
    llm = OpenAI(model=MODEL, base_url=f"{served.url}/v1", api_key=ALICE, temperature=0, max_tokens=8)
    assert llm.invoke(TEXT) == "".join(llm.stream(TEXT))
    assert len(llm.batch([TEXT, TEXT + "And Sundays?"])) == 2
    assert len(llm.generate([TEXT, TEXT + "And Sundays?"]).generations) == 2, "several prompts in one request"
