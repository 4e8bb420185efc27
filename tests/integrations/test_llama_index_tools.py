"""Tools and structured output through LlamaIndex, on a random model: what it calls is valid because it must be."""

import asyncio
from typing import Any, Literal

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel
from test_tools import LISTED
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_integrations.llama_index import SemShareLLM
from tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def weather(place: str, days: int) -> str:
    """The weather of a place."""
    return f"{place}: {days} days of rain"


def nothing() -> str:
    """Takes no arguments."""
    return "done"


WEATHER, NOTHING = FunctionTool.from_defaults(weather), FunctionTool.from_defaults(nothing)


class Person(BaseModel):
    """A person."""

    name: str
    age: int
    mood: Literal["glad", "sad"]


ASK = PromptTemplate("Who is {name}?")


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    return SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=160)


def test_all_ways_call_the_same(llm: SemShareLLM) -> None:
    async def streamed() -> list[Any]:
        asked = await llm.astream_chat_with_tools([WEATHER], "Rain?", tool_required=True)
        return [part async for part in asked]

    answers = [
        llm.chat_with_tools([WEATHER], "Rain?", tool_required=True),
        asyncio.run(llm.achat_with_tools([WEATHER], "Rain?", tool_required=True)),
        list(llm.stream_chat_with_tools([WEATHER], "Rain?", tool_required=True))[-1],
        asyncio.run(streamed())[-1],
    ]
    told = []
    for answer in answers:
        [call] = llm.get_tool_calls_from_response(answer)
        assert call.tool_name == "weather"
        assert set(call.tool_kwargs) == {"place", "days"}
        assert not answer.message.content
        assert answer.raw["finish_reason"] == "tool_calls"
        told.append(call.tool_kwargs)
    assert told == [told[0]] * 4


def test_which_tool_is_the_users_choice(llm: SemShareLLM) -> None:
    for settings, names in (
        ({"tool_choice": "nothing"}, ["nothing"]),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, ["weather"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": "none", "tool_required": True}, []),
    ):
        answer = llm.chat_with_tools([WEATHER, NOTHING], "Rain?", **settings)  # type: ignore[arg-type]
        calls = llm.get_tool_calls_from_response(answer, error_on_no_tool_call=False)
        assert [call.tool_name for call in calls] == names
    with pytest.raises(ValueError, match="'lookup' names no tool"):
        llm.chat_with_tools([WEATHER], "Rain?", tool_choice="lookup")
    with pytest.raises(ValueError, match="tool_required=True"):
        llm.predict_and_call([WEATHER], "Rain?", tool_choice="none")


def test_several_calls_in_one_answer(model: PreTrainedModel) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = LISTED
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=300)
    answer = llm.chat_with_tools([NOTHING], "Go!", tool_required=True, allow_parallel_tool_calls=True)
    calls = llm.get_tool_calls_from_response(answer)
    assert {call.tool_name for call in calls} == {"nothing"}
    assert len({call.tool_id for call in calls}) == len(calls)
    one = llm.chat_with_tools([NOTHING], "Go!", tool_required=True)
    assert len(llm.get_tool_calls_from_response(one)) == 1


def test_results_go_back_to_the_model(llm: SemShareLLM) -> None:
    answer = llm.chat_with_tools([WEATHER], "Rain?", tool_required=True)
    [call] = llm.get_tool_calls_from_response(answer)
    result = ChatMessage("5 days", role="tool", additional_kwargs={"tool_call_id": call.tool_id})
    history = [ChatMessage("Rain?"), answer.message, result]
    said = llm.chat_with_tools([WEATHER], chat_history=history, tool_choice="none")
    assert said.message.content
    longer = [*history[:2], ChatMessage("55 days", role="tool", additional_kwargs={"tool_call_id": call.tool_id})]
    more = llm.chat_with_tools([WEATHER], chat_history=longer, tool_choice="none")
    assert more.raw["usage"]["prompt_tokens"] == said.raw["usage"]["prompt_tokens"] + 1, "a token is a byte here"
    restored = [ChatMessage.model_validate(message.model_dump()) for message in history]
    again = llm.chat_with_tools([WEATHER], chat_history=restored, tool_choice="none", reuse="off")
    assert again.message.content == said.message.content


def test_structured_predict_in_all_ways(llm: SemShareLLM) -> None:
    async def streamed() -> list[Any]:
        return [part async for part in await llm.astream_structured_predict(Person, ASK, name="Anna")]

    answers = [
        llm.structured_predict(Person, ASK, name="Anna"),
        asyncio.run(llm.astructured_predict(Person, ASK, name="Anna")),
        list(llm.stream_structured_predict(Person, ASK, name="Anna"))[-1],
        asyncio.run(streamed())[-1],
        llm.as_structured_llm(Person).complete(ASK.format(name="Anna")).raw,
    ]
    for answer in answers:
        assert isinstance(answer, Person)
    assert answers[:4] == [answers[0]] * 4


class Node(BaseModel):
    """A node with nodes below."""

    name: str
    below: list["Node"] = []


def test_a_form_that_holds_itself(llm: SemShareLLM) -> None:
    """LlamaIndex cannot call such a tool by itself, but whoever asks for the call gets a valid one."""

    def plant(root: Node) -> str:
        """Plant a tree."""
        return root.name

    for tool in (get_function_tool(Node), FunctionTool.from_defaults(plant)):
        answer = llm.chat_with_tools([tool], "?", tool_required=True, max_new_tokens=400)
        [call] = llm.get_tool_calls_from_response(answer)
        assert Node.model_validate(call.tool_kwargs.get("root", call.tool_kwargs))


def test_structured_output_as_json(llm: SemShareLLM) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "Person", "schema": Person.model_json_schema()}}
    answer = llm.chat([ChatMessage("Who?")], response_format=schema)
    assert Person.model_validate_json(answer.message.content or "")


def test_asking_in_words_stays_possible(llm: SemShareLLM) -> None:
    """A random model does not answer in JSON when only asked to."""
    in_words = llm.model_copy(update={"pydantic_program_mode": PydanticProgramMode.LLM, "max_new_tokens": 5})
    with pytest.raises(ValueError, match="extract json"):
        in_words.structured_predict(Person, ASK, name="Anna")
    assert isinstance(llm.structured_predict(Person, ASK, name="Anna"), Person)
