"""Tool calls of models whose tags are tokens that were added to the vocabulary, special ones and others."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.tools import tool
from llama_index.core.tools import FunctionTool
from test_tools import HERMES
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from real_tokenizers import Force
from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.langchain import ChatSemShare
from semshare_integrations.llama_index import SemShareLLM
from semshare_integrations.tools import call_format, parse_reply
from semshare_integrations.tools.added_tokens import added_tokens, parts
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

TAGS = ["<tool_call>", "</tool_call>", "<think>", "</think>", "<b>"]
RAIN = {"place": "<b>Vinga</b>", "days": 2}


def weather(place: str, days: int) -> str:
    """The weather of a place."""
    return f"{place}: {days} days of rain"


def engine_with(template: str | None = None, *, special: tuple[str, ...] = ()) -> SemShareEngine:
    """An engine whose tags are tokens; those in ``special`` are left out when tokens are decoded to text."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.add_tokens([AddedToken(tag, special=tag in special, normalized=False) for tag in TAGS])
    model = tiny_model("llama")
    model.resize_token_embeddings(len(tokenizer))
    return SemShareEngine(model, tokenizer)


SPECIAL = {
    "not special": (),
    "special": ("<tool_call>", "</tool_call>", "<think>", "</think>"),
    "one of them": TAGS[:1],
}


@pytest.fixture(scope="module", params=SPECIAL)
def engine(request: pytest.FixtureRequest) -> SemShareEngine:
    return engine_with(HERMES, special=tuple(SPECIAL[request.param]))


def said(tokenizer: PreTrainedTokenizerBase, text: str, end: bool = True) -> dict[str, Any]:
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return {"logits_processor": [Force([*ids, tokenizer.eos_token_id] if end else ids)]}


def test_enforced_calls_are_made_of_the_tags_tokens(engine: SemShareEngine) -> None:
    llm = ChatSemShare(engine=engine, max_tokens=150)
    answer = llm.bind_tools([weather], tool_choice="any").invoke("Rain?")
    assert [call["name"] for call in answer.tool_calls] == ["weather"]
    assert not answer.invalid_tool_calls


@pytest.mark.parametrize("choice", ["any", "weather", "auto"])
def test_a_model_calls_as_it_was_trained_to(engine: SemShareEngine, choice: str) -> None:
    text = call_format(engine.tokenizer).write([("weather", RAIN)])
    bound = ChatSemShare(engine=engine, max_tokens=200).bind_tools([weather], tool_choice=choice)
    for ask in (bound.invoke, lambda *asked, **settings: reduce(add, bound.stream(*asked, **settings))):
        answer = ask("Rain?", **said(engine.tokenizer, text))
        assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", RAIN)]
        assert (answer.content, answer.invalid_tool_calls) == ("", [])


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_a_model_makes_several_calls(engine: SemShareEngine, choice: str) -> None:
    text = call_format(engine.tokenizer).write([("weather", RAIN), ("weather", {"place": "x", "days": 1})])
    bound = ChatSemShare(engine=engine, max_tokens=300).bind_tools(
        [weather], tool_choice=choice, parallel_tool_calls=True
    )
    answer = bound.invoke("Rain?", **said(engine.tokenizer, text))
    assert [call["args"]["days"] for call in answer.tool_calls] == [2, 1]


@pytest.mark.parametrize("choice", ["any", "auto"])
def test_a_model_thinks_before_it_calls(engine: SemShareEngine, choice: str) -> None:
    text = "<think>\nHm.\n</think>\n\n" + call_format(engine.tokenizer).write([("weather", RAIN)])
    bound = ChatSemShare(engine=engine, max_tokens=200).bind_tools([weather], tool_choice=choice)
    answer = bound.invoke("Rain?", **said(engine.tokenizer, text))
    assert [call["args"] for call in answer.tool_calls] == [RAIN]
    assert "Hm." in answer.content
    assert "tool_call" not in answer.content


def test_after_the_tag_a_free_answer_is_a_valid_call(engine: SemShareEngine) -> None:
    bound = ChatSemShare(engine=engine, max_tokens=150).bind_tools([weather])
    answer = bound.invoke("Rain?", **said(engine.tokenizer, "Well, <b>\n<tool_call>", end=False))
    assert [call["name"] for call in answer.tool_calls] == ["weather"]
    assert answer.content == "Well, <b>"
    assert not answer.invalid_tool_calls


def test_a_free_answer_may_hold_any_token_but_the_tag(engine: SemShareEngine) -> None:
    text = "<think>Is it <b>bold</b>?</think> Yes. <|start|><|pad|>"
    bound = ChatSemShare(engine=engine, max_tokens=100).bind_tools([weather])
    free = bound.invoke("Bold?", **said(engine.tokenizer, text))
    without_tools = ChatSemShare(engine=engine, max_tokens=100).invoke("Bold?", **said(engine.tokenizer, text))
    assert free.content == without_tools.content
    assert free.tool_calls == []


def test_an_argument_may_hold_a_tag_that_is_text() -> None:
    engine = engine_with(HERMES)
    text = call_format(engine.tokenizer).write([("weather", {"place": "a <tool_call> </tool_call>", "days": 1})])
    for choice in ("any", "auto"):
        bound = ChatSemShare(engine=engine, max_tokens=150).bind_tools([weather], tool_choice=choice)
        [call] = bound.invoke("Rain?", **said(engine.tokenizer, text)).tool_calls
        assert call["args"]["place"] == "a <tool_call> </tool_call>"


def test_an_argument_may_hold_added_tokens(engine: SemShareEngine) -> None:
    """A model that writes HTML says the token of ``<b>``, if there is one."""
    text = call_format(engine.tokenizer).write([("weather", {"place": "<b>x", "days": 1})])
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert added_tokens(engine.tokenizer)["<b>"] in ids
    bound = ChatSemShare(engine=engine, max_tokens=120).bind_tools([weather], tool_choice="any")
    [call] = bound.invoke("Rain?", **said(engine.tokenizer, text)).tool_calls
    assert call["args"]["place"] == "<b>x"


def test_llama_index_calls_with_added_tokens(engine: SemShareEngine) -> None:
    llm = SemShareLLM(engine=engine, max_new_tokens=200)
    tools = [FunctionTool.from_defaults(weather)]
    text = call_format(engine.tokenizer).write([("weather", RAIN)])
    for required in (True, False):
        answer = llm.chat_with_tools(tools, "Rain?", tool_required=required, **said(engine.tokenizer, text))
        assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(answer)] == [RAIN]
        *_, last = llm.stream_chat_with_tools(tools, "Rain?", tool_required=required, **said(engine.tokenizer, text))
        assert [call.tool_kwargs for call in llm.get_tool_calls_from_response(last)] == [RAIN]


def test_the_tags_of_our_own_form_are_tokens_where_the_vocabulary_has_them() -> None:
    engine = engine_with()
    bound = ChatSemShare(engine=engine, max_tokens=150).bind_tools([weather], tool_choice="any")
    assert bound.invoke("Rain?").tool_calls
    with pytest.raises(ConfigError, match="forbid all tokens"):
        bound.invoke("Rain?", logits_processor=[Force([ord("<"), ord("t")])])  # spelled in letters


def test_tokens_added_after_the_first_call_are_known_to_the_next_engine() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_model("llama")
    tokenizer.chat_template = HERMES
    bound = ChatSemShare(model=model, tokenizer=tokenizer, max_tokens=150).bind_tools([weather], tool_choice="any")
    assert bound.invoke("Rain?").tool_calls
    tokenizer.add_tokens(TAGS)
    model.resize_token_embeddings(len(tokenizer))
    for choice in ("any", "auto"):
        llm = ChatSemShare(engine=SemShareEngine(model, tokenizer), max_tokens=200)
        text = call_format(tokenizer).write([("weather", RAIN)])
        answer = llm.bind_tools([weather], tool_choice=choice).invoke("Rain?", **said(tokenizer, text))
        assert [call["args"] for call in answer.tool_calls] == [RAIN]


def test_closing_tags_that_are_special_are_learned() -> None:
    form = call_format(engine_with(HERMES, special=("<tool_call>", "</tool_call>")).tokenizer)
    assert (form.opening, form.between, form.closing) == (
        "<tool_call>\n",
        "\n</tool_call>\n<tool_call>\n",
        "\n</tool_call>",
    )
    assert form.hidden


def test_text_is_split_as_the_tokenizer_splits_it() -> None:
    tokens = {"<a>": 1, "<a><b>": 2, "\n": 3}
    assert parts("x<a><b>\n<a>y", tokens) == ["x", 2, "\n", 1, "y"]
    assert parts("", tokens) == []


def test_how_tools_are_told_and_called_is_told() -> None:
    @tool
    def nothing() -> str:
        """Nothing."""
        return ""

    engine = engine_with(HERMES)
    assert "as the model's chat template does it" in ChatSemShare(engine=engine).tool_call_form
    generic = SemShareLLM(engine=engine_with()).tool_call_form
    assert generic.endswith("because the model's chat template tells the model of no tools.")
    lines = HERMES.replace('{"name": "{{ call.function.name }}", "arguments": ', "{{ call.function.name }}(")
    assert "writes calls as something else than JSON objects" in ChatSemShare(engine=engine_with(lines)).tool_call_form
    refusing = HERMES.replace(
        "{% for call in", "{% if message.tool_calls %}{{ raise_exception('no') }}{% endif %}{% for call in"
    )
    assert "does not take calls and their results" in ChatSemShare(engine=engine_with(refusing)).tool_call_form


def test_a_call_that_a_thought_mentions_is_none() -> None:
    form = call_format(engine_with(HERMES).tokenizer)
    assert form.thinks == "may"
    written = form.write([("weather", RAIN)])
    found = parse_reply(f"<think>a <tool_call> then</think>\n\n{written}", form, ["weather"])
    assert (found.text, len(found.calls)) == ("<think>a <tool_call> then</think>", 1)
