"""ChatSemShare as LangChain's users call it: messages, tools, structured answers, streams, statistics, mistakes."""

from __future__ import annotations

import asyncio
import time
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.tools import tool
from pydantic import BaseModel, ValidationError
from test_tools import LISTED
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.langchain import ChatSemShare, SemShareCallbackHandler, get_semshare_callback
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

LONG = "The river ran past the old mill and under the bridge, where two boys were fishing for their supper. " * 3


@tool
def weather(place: str, days: int) -> str:
    """The weather of a place."""
    return f"{place}: {days} days of rain"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ChatSemShare:
    return ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=12)


def test_tools_are_refused_where_nothing_can_be_held_to_but_words_are_not(model: PreTrainedModel) -> None:
    words = Tokenizer(WordLevel({"<end>": 0, "[UNK]": 1, "hello": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", unk_token="[UNK]")
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    llm = ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=4)
    assert llm.invoke("hello").usage_metadata["input_tokens"] == 1
    with pytest.raises(ConfigError, match="llguidance cannot read the tokenizer"):
        llm.bind_tools([weather], tool_choice="any").invoke("hello")


def whole(chunks: Any) -> AIMessageChunk:
    return reduce(add, list(chunks))


def test_the_answer_is_that_of_the_engine(llm: ChatSemShare) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    expected = llm.engine.generate(messages, max_new_tokens=12, reuse="off", store=False).text
    asked = [SystemMessage("Be brief."), HumanMessage("Why?")]
    assert llm.invoke(asked, reuse="off").content == expected
    assert whole(llm.stream(asked)).content == expected
    assert asyncio.run(llm.ainvoke(asked)).content == expected
    assert [message.content for message in llm.batch([asked, asked])] == [expected] * 2


def test_a_conversation_reuses_its_turns(llm: ChatSemShare) -> None:
    with get_semshare_callback() as calls:
        first = llm.invoke([HumanMessage(LONG)])
        second = llm.invoke([HumanMessage(LONG), first, HumanMessage("And then?")])
    assert [report.outcome for report in calls.reports] == ["miss", "prefix"]
    assert calls.reports[1].prefix_tokens > len(LONG)
    assert second.usage_metadata is not None
    details = second.usage_metadata["input_token_details"]
    assert details["cache_read"] == calls.reports[1].prefix_tokens
    assert details["cache_read"] + details["cache_creation"] == second.usage_metadata["input_tokens"]
    unkept = llm.invoke([HumanMessage("Another matter. " * 5)], store=False)
    assert unkept.usage_metadata is not None
    assert unkept.usage_metadata["input_token_details"]["cache_creation"] == 0


def test_statistics_are_said_once(llm: ChatSemShare) -> None:
    handler = SemShareCallbackHandler()
    chunks = list(llm.stream("Why is the sea salt?", config={"callbacks": [handler]}))
    said = [chunk for chunk in chunks if chunk.usage_metadata or "semshare" in chunk.response_metadata]
    assert len(said) == 1
    assert said[0].chunk_position == "last"
    assert said[0].response_metadata["model_name"] == llm.model_id
    assert len(handler.reports) == 1


@pytest.mark.parametrize("parallel", [False, True])
def test_a_random_model_calls_tools(llm: ChatSemShare, parallel: bool) -> None:
    bound = llm.bind_tools([weather], tool_choice="weather", parallel_tool_calls=parallel)
    answer = bound.invoke("Rain?", max_tokens=150)
    assert isinstance(answer, AIMessage)
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert not answer.invalid_tool_calls
    [call, *_] = answer.tool_calls
    assert weather.invoke(call).content.endswith("days of rain")
    streamed = whole(bound.stream("Rain?", max_tokens=150))
    assert [(each["name"], each["args"]) for each in streamed.tool_calls] == [
        (each["name"], each["args"]) for each in answer.tool_calls
    ]
    assert streamed.content == answer.content == ""
    told = [HumanMessage("Rain?"), answer, *[weather.invoke(each) for each in answer.tool_calls]]
    assert llm.bind_tools([weather]).invoke(told).content


def test_a_call_without_room_is_an_error_in_a_stream_too(llm: ChatSemShare) -> None:
    bound = llm.bind_tools([weather], tool_choice="any")
    for ask in (bound.invoke, lambda *asked, **settings: whole(bound.stream(*asked, **settings))):
        with pytest.raises(ConfigError, match="may have 40 tokens, but its schema takes at least about 83"):
            ask("Rain?", max_tokens=40)


@pytest.mark.parametrize("tools", [[weather], []], ids=["with tools", "without"])
def test_an_agent_answers_in_a_form(llm: ChatSemShare, tools: list[Any]) -> None:
    patient = llm.model_copy(update={"max_new_tokens": 150})
    agent = create_agent(patient, tools, response_format=Person)
    answer = agent.invoke({"messages": [HumanMessage("Anna is 30.")]}, {"recursion_limit": 8})
    assert isinstance(answer["structured_response"], Person)


@pytest.mark.parametrize("opening", ["[CALLS]", "<|pad|>"], ids=["text", "special token"])
def test_streamed_calls_are_no_text(model: PreTrainedModel, opening: str) -> None:
    """Also where they begin with a special token, which the pieces of text do not show."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LISTED.replace("[CALLS]", opening)
    llm = ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=150)
    streamed = whole(llm.bind_tools([weather], tool_choice="any").stream("Rain?"))
    assert streamed.content == ""
    assert [call["name"] for call in streamed.tool_calls] == ["weather"]
    in_words = llm.bind_tools([weather], tool_choice="none")
    assert whole(in_words.stream("Rain?")).content == in_words.invoke("Rain?").content != ""


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_answers_of_a_random_model(llm: ChatSemShare, method: Any, include_raw: bool) -> None:
    model = llm.model_copy(update={"max_new_tokens": 150}).with_structured_output(
        Person, method=method, include_raw=include_raw
    )
    answer = model.invoke("Anna is 30.")
    if include_raw:
        assert answer["parsing_error"] is None
        answer = answer["parsed"]
    assert isinstance(answer, Person)


def test_mistakes_are_named(llm: ChatSemShare) -> None:
    calls = [{"name": "weather", "args": {"place": "x", "days": 1}, "id": "a", "type": "tool_call"}]
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    for messages, told in (
        ([], "no messages"),
        ([HumanMessage("?"), ToolMessage("5", tool_call_id="a")], "'a' has no call"),
        ([HumanMessage("?"), AIMessage("", tool_calls=calls), ToolMessage("5", tool_call_id="b")], "'b' has no call"),
        ([HumanMessage(image)], "'image_url'.*only text"),
    ):
        with pytest.raises(ValueError, match=told):
            llm.invoke(messages)
    for choice in ("lookup", {"function": "lookup"}, {"type": "function", "function": {"name": "lookup"}}, ["lookup"]):
        with pytest.raises(ValueError, match=r"lookup'.* names no tool.*weather"):
            llm.bind_tools([weather], tool_choice=choice)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'web_search'.* is no function"):
        llm.bind_tools([{"type": "web_search"}])
    with pytest.raises(ValueError, match="exclude each other"):
        llm.bind_tools([weather]).invoke("?", response_format={"type": "json_object"})
    for form in ({"type": "yaml"}, {"type": "json_schema", "json_schema": None}, "json"):
        with pytest.raises(ValueError, match=r"response_format=.*json_schema"):
            llm.invoke("?", response_format=form)
    with pytest.raises(ValueError, match="method='yaml'"):
        llm.with_structured_output(Person, method="yaml")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="top_q"):
        llm.invoke("?", top_q=1)
    with pytest.raises(ConfigError, match=r"stop=\["):
        llm.invoke("?", stop="x")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="tempature"):
        ChatSemShare(model_id="demo", tempature=1)


def test_a_template_that_refuses_a_role_order(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    llm = ChatSemShare(model=model, tokenizer=tokenizer)
    with pytest.raises(PromptError, match="roles must alternate"):
        llm.invoke([HumanMessage("?"), HumanMessage("?")])


def test_a_call_that_takes_too_long_is_given_up(llm: ChatSemShare) -> None:
    with pytest.raises(TimeoutError, match=r"timeout=0\.05"):
        llm.invoke("Why?", timeout=0.05, max_tokens=3000, suppress_tokens=[256])
    assert llm.invoke("Why?").content


def test_an_answer_that_was_ready_in_time_may_be_read_slowly(llm: ChatSemShare) -> None:
    pieces = llm.stream("Why?", timeout=2)
    next(pieces)
    time.sleep(2.1)
    assert [piece.response_metadata["finish_reason"] for piece in pieces if piece.chunk_position] == ["length"]


@pytest.mark.parametrize("timeout", [0, -1, "5"])
def test_a_timeout_is_some_time(llm: ChatSemShare, timeout: Any) -> None:
    with pytest.raises(ConfigError, match="timeout="):
        llm.invoke("Why?", timeout=timeout)


def test_tokens_are_the_models_own(llm: ChatSemShare) -> None:
    assert llm.get_num_tokens("Größe") == len("Größe".encode())
    told: list[Any] = [HumanMessage(LONG), AIMessage("Yes."), HumanMessage("Why?")]
    assert trim_messages(told, max_tokens=50, token_counter=llm) == told[1:]
    assert ChatSemShare(engine=llm.engine, custom_get_token_ids=lambda text: [7]).get_token_ids(LONG) == [7]


def test_eight_calls_at_once_answer_as_if_alone(llm: ChatSemShare) -> None:
    questions = [f"Question {number}: why?" for number in range(8)]
    alone = [llm.invoke(question, reuse="off", store=False).content for question in questions]

    async def ask(number: int) -> str:
        if number % 2:
            return (await llm.ainvoke(questions[number], reuse="exact")).content
        return "".join([chunk.content async for chunk in llm.astream(questions[number], reuse="exact")])

    async def together() -> list[str]:
        return await asyncio.gather(*map(ask, range(8)))

    assert asyncio.run(together()) == alone


def test_objects_share_an_engine(llm: ChatSemShare) -> None:
    other = ChatSemShare(engine=llm.engine, temperature=0.5)
    assert isinstance(other.engine, SemShareEngine)
    assert other.engine is llm.engine
    assert other.profile is not None
    assert other.profile["tool_calling"]


def test_the_profile_tells_how_much_a_loaded_model_reads(llm: ChatSemShare, model: PreTrainedModel) -> None:
    assert llm.profile is not None
    assert llm.profile["max_input_tokens"] == model.config.max_position_embeddings
    lazy = ChatSemShare(model_id="demo")
    assert lazy.profile is not None
    assert "max_input_tokens" not in lazy.profile, "construction loads nothing"
    lazy.source = llm.source  # as if it had been loaded
    assert lazy.engine is llm.engine
    assert lazy.profile["max_input_tokens"] == model.config.max_position_embeddings, "known from the first use on"
    given = ChatSemShare(engine=llm.engine, profile={"max_input_tokens": 5})
    assert given.engine is llm.engine
    assert given.profile == {"max_input_tokens": 5}


def test_a_chat_begins_once(model: PreTrainedModel) -> None:
    """A template that writes the first token itself must not get another one from the tokenizer."""
    tokenizer = tiny_tokenizer()
    begin = next(iter(tokenizer.added_tokens_decoder.values()))
    tokenizer.chat_template = f"{begin}{{{{ messages[0]['content'] }}}}"
    asked: list[Any] = []
    llm = ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=1)
    stream = llm.engine.stream
    llm.engine.stream = lambda prompt, **more: (asked.extend(llm.engine.token_ids(prompt)), stream(prompt, **more))[1]  # type: ignore[method-assign]
    llm.invoke("hi")
    assert asked == [tokenizer.convert_tokens_to_ids(str(begin)), *tokenizer("hi")["input_ids"]]
