"""Prompts, calls and ends of answers with the tokenizers and chat templates that people's own models bring.

The models are random and of next to no size; what they are to say is forced. Skipped where npm's packages cannot be had
(``python -m benchmarks.corpora.tokenizers`` fetches them).
"""

from __future__ import annotations

import json
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from real_tokenizers import Force, real_engine
from semshare_core import Chat, SemShareEngine
from semshare_core.errors import ConfigError, PromptError
from semshare_integrations.adapter.chat_call import openai_call
from semshare_integrations.langchain import ChatSemShare
from semshare_integrations.llama_index import SemShareLLM
from semshare_integrations.tools import CallFormat, call_format, constraint, json_grammar

pytestmark = pytest.mark.usefixtures("one_thread")

CHATS = ("qwen3", "llama3_1", "gemma3", "deepseek_v3")
NO_TEMPLATE = ("gptoss", "llama2")

PLACE = {"place": "Vinga <b>north</b>", "days": 2}
ELSEWHERE = {"place": "Öland", "days": 3}


def weather(place: str, days: int) -> str:
    """The weather of a place."""
    return f"{place}: {days} days of rain"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.fixture(params=CHATS)
def engine(request: pytest.FixtureRequest) -> SemShareEngine:
    return real_engine(request.param)


@pytest.fixture
def chat(engine: SemShareEngine) -> ChatSemShare:
    return ChatSemShare(engine=engine, max_tokens=120, reuse="exact")


def ids_of(engine: SemShareEngine, text: str, end: bool = True) -> list[int]:
    ids = list(engine.tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, engine.tokenizer.eos_token_id] if end else ids


def said(engine: SemShareEngine, text: str, end: bool = True) -> dict[str, Any]:
    """Settings of a call in which the model says ``text``."""
    return {"logits_processor": [Force(ids_of(engine, text, end))]}


def written(engine: SemShareEngine, *arguments: dict[str, Any]) -> str:
    return call_format(engine.tokenizer).write([("weather", each) for each in arguments])


def text_of(engine: SemShareEngine, prompt: Any) -> str:
    return str(engine.tokenizer.decode(engine.token_ids(prompt), skip_special_tokens=False))


# --- prompts -----------------------------------------------------------------------------------------------------


def test_a_prompt_has_one_beginning(engine: SemShareEngine) -> None:
    tokenizer = engine.tokenizer
    ids = engine.token_ids([{"role": "user", "content": "Rain?"}])
    assert ids.count(tokenizer.bos_token_id) == (0 if tokenizer.bos_token is None else 1)
    assert "Rain?" in tokenizer.decode(ids)


def test_a_prompt_spelled_again_has_the_same_tokens(engine: SemShareEngine) -> None:
    prompt = Chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Öl  in\n\n\tVinga? 🌧"}])
    ids = engine.token_ids(prompt)
    text = engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert ids_of(engine, text, end=False) == ids
    assert ids_of(engine, engine.tokenizer.decode(ids_of(engine, text, end=False)), end=False) == ids


def test_a_system_message_reaches_the_prompt(engine: SemShareEngine) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rain?"}]
    text = text_of(engine, messages)
    assert text.index("Be brief.") < text.index("Rain?")


def test_a_history_with_calls_and_results(chat: ChatSemShare, engine: SemShareEngine) -> None:
    call = {"name": "weather", "args": PLACE, "id": "a", "type": "tool_call"}
    history = [
        SystemMessage("Be brief."),
        HumanMessage("Rain?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("no rain", tool_call_id="a"),
        AIMessage("It stays dry."),
        HumanMessage("And then?"),
    ]
    bound = chat.bind_tools([weather])
    answer = bound.invoke(history, **said(engine, "Dry, too."))
    assert answer.content == "Dry, too."
    told = call_format(engine.tokenizer).messages(
        [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": PLACE}}]},
            {"role": "tool", "content": "no rain", "name": "weather", "tool_call_id": "a"},
        ],
        [],
    )
    text = text_of(engine, told)
    assert written(engine, PLACE) in text
    assert text.index("</b>") < text.index("no rain")


@pytest.mark.parametrize("family", NO_TEMPLATE)
def test_a_tokenizer_without_a_template_says_so(family: str) -> None:
    engine = real_engine(family)
    assert call_format(engine.tokenizer).description.endswith("because the tokenizer has no chat template.")
    with pytest.raises(PromptError, match="has no chat template: pass text instead"):
        ChatSemShare(engine=engine).invoke("Rain?")


@pytest.mark.parametrize("family", NO_TEMPLATE)
def test_a_text_spelled_again_has_the_same_tokens(family: str) -> None:
    engine = real_engine(family)
    ids = engine.token_ids("The lighthouse at Vinga, built in 1890.")
    assert ids.count(engine.tokenizer.bos_token_id) <= 1
    text = engine.tokenizer.decode(ids, skip_special_tokens=True)
    assert engine.token_ids(text) == ids


# --- calls -------------------------------------------------------------------------------------------------------


def test_the_form_of_calls_is_told() -> None:
    forms = {family: call_format(real_engine(family).tokenizer) for family in CHATS}
    assert forms["qwen3"] == CallFormat(native=True, thinks="may")
    assert forms["qwen3"].description.startswith("Tools are described and called as the model's chat template does it")
    for family in ("llama3_1", "gemma3", "deepseek_v3"):
        assert forms[family].description == (
            "Tools are described in words and called between <tool_call> and </tool_call>, because the model's chat "
            "template tells the model of no tools."
        )


@pytest.mark.parametrize("choice", ["any", "weather", "auto"])
def test_calls_come_back_as_calls(chat: ChatSemShare, engine: SemShareEngine, choice: str) -> None:
    bound = chat.bind_tools([weather], tool_choice=choice)
    answer = bound.invoke("Rain?", **said(engine, written(engine, PLACE)))
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", PLACE)]
    assert answer.content == ""
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    streamed = reduce(add, bound.stream("Rain?", **said(engine, written(engine, PLACE))))
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [("weather", PLACE)]
    assert streamed.content == ""


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_several_calls_at_once(chat: ChatSemShare, engine: SemShareEngine, choice: str) -> None:
    bound = chat.bind_tools([weather], tool_choice=choice, parallel_tool_calls=True)
    answer = bound.invoke("Rain?", **said(engine, written(engine, PLACE, ELSEWHERE)))
    assert [call["args"] for call in answer.tool_calls] == [PLACE, ELSEWHERE]


def test_text_before_a_call(chat: ChatSemShare, engine: SemShareEngine) -> None:
    bound = chat.bind_tools([weather])
    text = "I look.\n" + written(engine, PLACE)
    answer = bound.invoke("Rain?", **said(engine, text))
    assert (answer.content, [call["args"] for call in answer.tool_calls]) == ("I look.", [PLACE])
    streamed = reduce(add, bound.stream("Rain?", **said(engine, text)))
    assert (streamed.content, [call["args"] for call in streamed.tool_calls]) == ("I look.", [PLACE])


def test_a_call_that_is_begun_is_held_to_its_schema(chat: ChatSemShare, engine: SemShareEngine) -> None:
    """The model says no more than what opens a call; what follows is valid, whatever it would like to say."""
    opening = call_format(engine.tokenizer).opening.rstrip()
    answer = chat.bind_tools([weather]).invoke("Rain?", **said(engine, opening, end=False))
    [call] = answer.tool_calls
    assert isinstance(call["args"]["days"], int)
    assert not answer.invalid_tool_calls


@pytest.mark.parametrize("choice", ["any", "weather"])
def test_a_call_that_must_be_made_is_made(chat: ChatSemShare, choice: str) -> None:
    [call] = chat.bind_tools([weather], tool_choice=choice).invoke("Rain?").tool_calls
    assert isinstance(call["args"]["place"], str)


def test_a_llama_index_model_calls_tools(engine: SemShareEngine) -> None:
    llm = SemShareLLM(engine=engine, max_new_tokens=120)
    tools = [FunctionTool.from_defaults(weather)]
    for required in (True, False):
        forced = said(engine, written(engine, PLACE))
        answer = llm.chat_with_tools(tools, "Rain?", tool_required=required, **forced)
        [call] = llm.get_tool_calls_from_response(answer)
        assert (call.tool_name, call.tool_kwargs) == ("weather", PLACE)
        forced = said(engine, written(engine, PLACE, ELSEWHERE))
        *_, last = llm.stream_chat_with_tools(
            tools, "Rain?", tool_required=required, allow_parallel_tool_calls=True, **forced
        )
        assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(last)] == [PLACE, ELSEWHERE]


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_qwen_calls_as_it_was_trained_to(choice: str) -> None:
    """Its tags are tokens of their own; what its template renders of a call is what the model says, and comes back."""
    engine = real_engine("qwen3")
    tokenizer = engine.tokenizer
    history = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [openai_call("weather", PLACE, "a")]},
        {"role": "tool", "content": "no rain", "name": "weather", "tool_call_id": "a"},
    ]
    rendered = tokenizer.apply_chat_template(history, tokenize=False)
    turn = rendered.split("<|im_start|>assistant\n")[1].split("<|im_end|>")[0]
    spelled = ids_of(engine, turn, end=False)
    assert tokenizer.convert_ids_to_tokens([spelled[0], spelled[-1]]) == ["<tool_call>", "</tool_call>"]

    bound = ChatSemShare(engine=engine, max_tokens=60, reuse="exact").bind_tools([weather], tool_choice=choice)
    forced = Force([*spelled, tokenizer.eos_token_id])
    [call] = bound.invoke("Rain?", logits_processor=[forced]).tool_calls
    assert (call["name"], call["args"]) == ("weather", PLACE)

    expected = tokenizer.apply_chat_template(history, add_generation_prompt=True, tokenize=False)
    assert engine.token_ids(history) == ids_of(engine, expected, end=False)


@pytest.mark.parametrize("choice", ["any", "auto"])
@pytest.mark.parametrize("thought", ["\nThe user asks for <tool_call> now.\n", "\n\n"], ids=["long", "empty"])
def test_qwen_thinks_before_it_calls(choice: str, thought: str) -> None:
    engine = real_engine("qwen3")
    if choice == "auto":
        thought = thought.replace("<tool_call>", "a call")  # a tag that stands in free text begins a call
    bound = ChatSemShare(engine=engine, max_tokens=120).bind_tools([weather], tool_choice=choice)
    text = f"<think>{thought}</think>\n\n{written(engine, PLACE)}"
    answer = bound.invoke("Rain?", **said(engine, text))
    assert [call["args"] for call in answer.tool_calls] == [PLACE]
    assert answer.content == f"<think>{thought}</think>"
    streamed = reduce(add, bound.stream("Rain?", **said(engine, text)))
    assert (streamed.content, [call["args"] for call in streamed.tool_calls]) == (answer.content, [PLACE])


def test_a_thought_ends_in_time_for_the_call() -> None:
    engine = real_engine("qwen3")
    bound = ChatSemShare(engine=engine, max_tokens=50).bind_tools([weather], tool_choice="any")
    answer = bound.invoke("Rain?", **said(engine, "<think>\nWell,", end=False))
    assert answer.content.startswith("<think>\nWell,")
    assert answer.content.endswith("</think>")
    assert [call["name"] for call in answer.tool_calls] == ["weather"]


def test_a_thought_that_the_prompt_begins_is_gone_on_with() -> None:
    """Templates of models that always think end the prompt with ``<think>``."""
    engine = real_engine("qwen3")
    tokenizer = engine.tokenizer
    before = tokenizer.chat_template
    tokenizer.chat_template = before.replace(
        "'<|im_start|>assistant\\n' }}\n    {%- if", "'<|im_start|>assistant\\n<think>\\n' }}\n    {%- if"
    )
    try:
        assert call_format(tokenizer).thinks == "begun"
        bound = ChatSemShare(engine=engine, max_tokens=60).bind_tools([weather], tool_choice="any")
        answer = bound.invoke("Rain?", **said(engine, f"Rain, then.\n</think>\n\n{written(engine, PLACE)}"))
        assert answer.content == "Rain, then.\n</think>"
        assert [call["args"] for call in answer.tool_calls] == [PLACE]
    finally:
        tokenizer.chat_template = before


# --- answers in a form, streams and ends -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_structured_output(chat: ChatSemShare, engine: SemShareEngine, method: Any) -> None:
    assert isinstance(chat.with_structured_output(Person, method=method).invoke("Who?"), Person)
    if method == "json_schema":
        person = {"name": "Anna </b>", "age": 30}
        held = chat.bind(response_format={"type": "json_schema", "json_schema": {"schema": Person.model_json_schema()}})
        answer = held.invoke("Who?", **said(engine, json.dumps(person)))
        assert json.loads(str(answer.content)) == person


def test_numbers_of_several_digits_a_token_come_to_an_end(chat: ChatSemShare, engine: SemShareEngine) -> None:
    """Tokens of three digits could follow each other for ever; more must follow the number, and room is ample."""
    schema = {
        "type": "object",
        "properties": {
            "place": {"type": "string"},
            "days": {"type": "integer"},
            "kind": {"enum": ["wet", "dry"]},
            "notes": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["place", "days", "kind", "notes"],
    }
    grammar = json_grammar(schema)
    with pytest.raises(ConfigError, match=r"takes at least about \d{2} tokens"):
        constraint(grammar, engine.model, engine.tokenizer, 3)
    constraint(grammar, engine.model, engine.tokenizer, 1500)


def test_a_list_of_a_least_length_behind_a_text_has_a_way_to_its_end(engine: SemShareEngine) -> None:
    """Tokens such as ``]],`` could follow each other in the text for ever, and look like ends."""
    schema = {
        "type": "object",
        "properties": {
            "note": {"type": "string"},
            "days": {"type": "array", "items": {"type": "integer"}, "minItems": 3},
        },
        "required": ["note", "days"],
    }
    constraint(json_grammar(schema), engine.model, engine.tokenizer, 60)


def test_a_stream_brings_the_same_text(chat: ChatSemShare, engine: SemShareEngine) -> None:
    text = "It rains.\n\nÖl, 5 < 6 </b> 🌧."
    assert chat.invoke("Rain?", **said(engine, text)).content == text
    assert "".join(str(part.content) for part in chat.stream("Rain?", **said(engine, text))) == text


def test_answers_end_at_the_end_token_and_at_stop_strings(chat: ChatSemShare, engine: SemShareEngine) -> None:
    ended = chat.invoke("Rain?", **said(engine, "Yes."))
    assert (ended.content, ended.response_metadata["finish_reason"]) == ("Yes.", "stop")
    stopped = chat.invoke("Rain?", stop=["\nNo"], **said(engine, "Yes.\nNo.", end=False))
    assert (stopped.content, stopped.response_metadata["finish_reason"]) == ("Yes.", "stop")
