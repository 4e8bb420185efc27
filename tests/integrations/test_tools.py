"""Tool calls below the frameworks: forms learned from templates, grammars, endings in time, and reading replies."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, create_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import Chat, SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.tools import (
    CallFormat,
    Grammar,
    call_format,
    constraint,
    json_grammar,
    parse_reply,
    reply_grammar,
)
from semshare_integrations.tools.reply import settled_text
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place", "days"],
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time", "description": "The time."}}
GENERIC = CallFormat()

HERMES = (
    "{% if tools %}<|start|>system\nTools: {% for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>\n{% endif %}"
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{% if not loop.first or message.content %}{{ '\n' }}{% endif %}"
    "<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
BARE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}<|start|>{{ message.role }}\n"
    "{% if message.tool_calls %}{% if message.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}"
    '{% endif %}{% set call = message.tool_calls[0].function %}{"name": "{{ call.name }}", "parameters": '
    "{{ call.arguments | tojson }}}{% else %}{{ message.content }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
LISTED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}<|start|>{{ message.role }}\n"
    "{{ message.content }}{% if message.tool_calls %}[CALLS] [{% for call in message.tool_calls %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def with_template(template: str) -> PreTrainedTokenizerBase:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def engine(model: PreTrainedModel) -> SemShareEngine:
    return SemShareEngine(model, tiny_tokenizer())


# --- forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (HERMES, CallFormat(native=True)),
        (BARE, CallFormat("", None, "", arguments_key="parameters", native=True)),
        (LISTED, CallFormat("[CALLS] [", ", ", "]", native=True)),
        (LISTED.replace("[CALLS]", "<|pad|>"), CallFormat("<|pad|> [", ", ", "]", native=True, hidden=True)),
    ],
    ids=["hermes", "bare", "listed", "behind a special token"],
)
def test_the_form_is_learned_from_the_template(template: str, form: CallFormat) -> None:
    assert call_format(with_template(template)) == form


def test_a_template_that_knows_no_tools_gets_the_generic_form() -> None:
    tokenizer = tiny_tokenizer()
    assert call_format(tokenizer) == GENERIC
    tokenizer.chat_template = HERMES
    assert call_format(tokenizer).native, "another template is another form"


def test_tools_told_in_words() -> None:
    call = {"type": "function", "id": "1", "function": {"name": "weather", "arguments": {"place": "Vinga", "days": 2}}}
    told = GENERIC.messages(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": "", "tool_calls": [call, call]},
            {"role": "tool", "content": "no", "name": "weather", "tool_call_id": "1"},
            {"role": "tool", "content": "yes", "name": "weather", "tool_call_id": "1"},
        ],
        [WEATHER],
    )
    assert [message["role"] for message in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"].startswith("Be brief.\n\n")
    assert '"name": "weather"' in told[0]["content"]
    assert parse_reply(told[2]["content"], GENERIC, ["weather"]).calls[1].arguments == {"place": "Vinga", "days": 2}
    results = "<tool_response>\nno\n</tool_response>\n<tool_response>\nyes\n</tool_response>"
    assert told[3]["content"] == f"{results}\nNow answer my question in words."


@pytest.mark.parametrize("answer", ["{{ raise_exception('System role not supported') }}", ""], ids=["refuses", "drops"])
def test_tools_told_where_there_is_no_system_message(model: PreTrainedModel, answer: str) -> None:
    tokenizer = with_template(
        "{% for message in messages %}{% if message.role == 'system' %}" + answer + "{% else %}"
        "{{ message.role }}: {{ message.content }}<|end|>{% endif %}{% endfor %}"
    )
    form = call_format(tokenizer)
    assert form == CallFormat(system=False)
    told = form.messages([{"role": "user", "content": "Rain?"}], [WEATHER])
    text = tokenizer.decode(SemShareEngine(model, tokenizer).token_ids(Chat(told)))
    assert text.startswith("user: You can use these tools:")
    assert text.endswith("\n\nRain?<|end|>")


def test_tools_reach_the_template(model: PreTrainedModel) -> None:
    engine = SemShareEngine(model, with_template(HERMES))
    prompt = Chat([{"role": "user", "content": "Rain?"}], [WEATHER])
    text = engine.tokenizer.decode(engine.token_ids(prompt))
    assert text.startswith('<|start|>system\nTools: {"type": "function"')


# --- replies held to a grammar -----------------------------------------------------------------------------------


def reply(engine: SemShareEngine, grammar: Grammar, tokens: int, seed: int | None = None) -> str:
    held = constraint(grammar, engine.model, engine.tokenizer, tokens, engine.context)
    out = engine.generate(
        "Rain?",
        max_new_tokens=tokens,
        logits_processor=[held],
        reuse="off",
        store=False,
        seed=seed,
        temperature=0.0 if seed is None else 2.0,
    )
    return engine.tokenizer.decode(out.token_ids, skip_special_tokens=False).removesuffix("<|end|>")


@pytest.mark.parametrize("seed", [None, 1, 2, 3])
@pytest.mark.parametrize("form", [GENERIC, CallFormat("", None, ""), CallFormat("<|start|>[", ", ", "]")], ids=repr)
@pytest.mark.parametrize("choice", ["any", "weather", "time"])
def test_a_random_model_makes_valid_calls(
    engine: SemShareEngine, form: CallFormat, choice: str, seed: int | None
) -> None:
    grammar = reply_grammar(form, [WEATHER, TIME], choice, False, engine.tokenizer)
    found = parse_reply(reply(engine, grammar, 200, seed), form, ["weather", "time"])
    assert found.text == ""
    assert not found.invalid
    [call] = found.calls
    assert call.name in ("weather", "time") if choice == "any" else call.name == choice
    if call.name == "weather":
        assert isinstance(call.arguments["place"], str)
        assert isinstance(call.arguments["days"], int)
    else:
        assert call.arguments == {}


@pytest.mark.parametrize("seed", range(6))
def test_no_further_call_is_begun_that_could_not_end(engine: SemShareEngine, seed: int) -> None:
    grammar = reply_grammar(GENERIC, [TIME], "any", True, engine.tokenizer)
    smallest_call = len(GENERIC.write([("time", {})]))
    found = parse_reply(reply(engine, grammar, 2 * smallest_call - 5, seed), GENERIC, ["time"])
    assert [call.name for call in found.calls] == ["time"]
    assert not found.invalid


@pytest.mark.parametrize("form", [GENERIC, CallFormat("", None, ""), CallFormat("<|start|>[", ", ", "]")], ids=repr)
def test_left_to_itself_it_may_answer_in_words(engine: SemShareEngine, form: CallFormat) -> None:
    grammar = reply_grammar(form, [WEATHER], "auto", True, engine.tokenizer)
    text = reply(engine, grammar, 20)
    assert len(text) > 0
    assert parse_reply(text, form, ["weather"]).calls == []


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_json_of_a_schema_ends_in_time(engine: SemShareEngine, seed: int | None) -> None:
    schema = {
        "type": "object",
        "properties": {
            "words": {"type": "array", "items": {"$ref": "#/$defs/word"}, "minItems": 1},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "kind": {"enum": ["long", "short"]},
        },
        "required": ["words", "note", "kind"],
        "$defs": {"word": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}},
    }
    value = json.loads(reply(engine, json_grammar(schema), 150, seed))
    assert set(value) == {"words", "note", "kind"}
    assert all(set(word) == {"text"} for word in value["words"])


@pytest.mark.parametrize("kind", [set[int], frozenset[str], Path, bytes, SecretStr, dict[str, Path]], ids=str)
def test_what_only_pydantic_says_of_a_form_is_no_obstacle(engine: SemShareEngine, kind: Any) -> None:
    form = create_model("form", format=(kind, ...), uniqueItems=(str, ...))
    value = reply(engine, json_grammar(form.model_json_schema()), 120)
    assert form.model_validate_json(value)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_dates_end_in_time(engine: SemShareEngine, seed: int | None) -> None:
    form = create_model("form", note=(str, ...), begin=(datetime, ...), end=(datetime, ...))
    grammar = json_grammar(form.model_json_schema())
    assert set(json.loads(reply(engine, grammar, 130, seed))) == {"note", "begin", "end"}


def test_a_schema_that_cannot_be_held_to(engine: SemShareEngine) -> None:
    with pytest.raises(ConfigError, match="cannot be compiled"):
        constraint(json_grammar({"type": "nonsense"}), engine.model, engine.tokenizer, 10)


# --- reading -----------------------------------------------------------------------------------------------------


def test_what_a_reply_says() -> None:
    two = 'Let me see.\n<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": "time"'
    found = parse_reply(two, GENERIC, ["time"])
    assert (found.text, len(found.calls), len(found.invalid)) == ("Let me see.", 1, 1)
    assert "not JSON" in found.invalid[0].error
    assert parse_reply("It is {five}.", GENERIC, ["time"]).calls == []
    assert "no tool 'other'" in parse_reply(GENERIC.write([("other", {})]), GENERIC, ["time"]).invalid[0].error
    assert "no object" in parse_reply('<tool_call>{"name": "time", "arguments": 5}', GENERIC, ["time"]).invalid[0].error
    assert "no JSON" in parse_reply("<tool_call>", GENERIC, ["time"]).invalid[0].error


arguments = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=8), max_size=3)


@given(st.lists(arguments, min_size=1, max_size=3), st.text(alphabet="ab <tol_c>\n", max_size=12))
def test_what_is_written_is_read(several: list[dict[str, Any]], before: str) -> None:
    written = GENERIC.write([("time", each) for each in several])
    found = parse_reply(before.replace("<tool_call>", "") + written, GENERIC, ["time"])
    assert [call.arguments for call in found.calls] == several


@given(st.text(alphabet="ab \n<tol_c>", max_size=20))
def test_settled_text_never_shrinks_and_holds_no_call(text: str) -> None:
    lengths = [settled_text(text[:end], GENERIC) for end in range(len(text) + 1)]
    assert lengths == sorted(lengths)
    assert "<tool_call>" not in text[: lengths[-1]]


@given(st.text(alphabet="ab \n<tol_c>", max_size=20))
def test_the_text_before_a_call_is_the_same_in_a_stream(before: str) -> None:
    written = before + GENERIC.write([("time", {})])
    settled = max(settled_text(written[:end], GENERIC) for end in range(len(written) + 1))
    assert written[:settled] == parse_reply(written, GENERIC, ["time"]).text
