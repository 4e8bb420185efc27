"""Anthropic's own client asks for messages over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from semshare_integrations.serving import Keys
from served import ALICE, MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Where is Vinga, and when may I visit the island? " * 3
GREEDY: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": TEXT}],
    "extra_body": {"temperature": 0},
    "max_tokens": 12,
}
WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
    "cache_control": {"type": "ephemeral"},
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(), Keys([ALICE])) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key=ALICE, max_retries=0)


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_says_what_a_chat_says(served: Served, client: anthropic.Anthropic) -> None:
    chat = served.openai(ALICE).chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}],
        temperature=0,
        max_completion_tokens=12,
    )
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    message = client.messages.create(**GREEDY, system=system)
    assert text_of(message) == chat.choices[0].message.content
    assert message.stop_reason == "max_tokens"
    assert chat.usage is not None
    assert message.usage.cache_read_input_tokens == chat.usage.prompt_tokens - 1
    assert message.usage.input_tokens == 1, "cached tokens are counted apart"
    assert message.usage.output_tokens == 12
    counted = client.messages.count_tokens(model=MODEL, messages=GREEDY["messages"], system=system)
    assert counted.input_tokens == chat.usage.prompt_tokens


def test_its_stream_says_the_same(client: anthropic.Anthropic) -> None:
    client.messages.create(**GREEDY)
    whole = client.messages.create(**GREEDY)
    with client.messages.stream(**GREEDY) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert final.usage.input_tokens == whole.usage.input_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_used_and_its_result_read(client: anthropic.Anthropic, stream: bool) -> None:
    asked: Any = {**GREEDY, "max_tokens": 200, "tools": [WEATHER]}
    forced: Any = {**asked, "tool_choice": {"type": "tool", "name": "weather"}}
    if stream:
        with client.messages.stream(**forced) as streaming:
            message: Any = streaming.get_final_message()
    else:
        message = client.messages.create(**forced)
    [use] = message.content
    assert (use.type, use.name) == ("tool_use", "weather")
    assert isinstance(use.input["days"], int)
    assert message.stop_reason == "tool_use"
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "rain"}]}
    follow: Any = [
        *GREEDY["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
    ]
    answer = client.messages.create(**{**asked, "messages": follow, "tool_choice": {"type": "none"}})
    assert answer.content[0].type == "text"
    assert (answer.usage.cache_read_input_tokens or 0) > 100


def test_a_schema_is_kept(client: anthropic.Anthropic) -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    config: Any = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**{**GREEDY, "max_tokens": 60}, output_config=config)
    assert isinstance(json.loads(text_of(message))["year"], int)


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    said = text_of(client.messages.create(**GREEDY))
    message = client.messages.create(**GREEDY, stop_sequences=["never said", said[4:6]])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", said[4:6])
    assert text_of(message) == said[: said.index(said[4:6])]


def test_the_last_message_may_be_the_begin_of_the_answer(client: anthropic.Anthropic) -> None:
    begun: Any = [*GREEDY["messages"], {"role": "assistant", "content": "Vinga is"}]
    assert client.messages.create(**{**GREEDY, "messages": begun}).usage.output_tokens == 12


def test_errors_have_anthropics_form(served: Served, client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**{**GREEDY, "max_tokens": 0})
    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**GREEDY, "model": "other"})
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=served.url, api_key="wrong", max_retries=0).messages.create(**GREEDY)
    with pytest.raises(anthropic.BadRequestError, match="the tool's name"):
        client.messages.create(**{**GREEDY, "tool_choice": {"type": "tool"}})
    image: Any = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    with pytest.raises(anthropic.BadRequestError, match="only text"):
        client.messages.create(**{**GREEDY, "messages": image}, stream=True)
