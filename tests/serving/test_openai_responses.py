"""OpenAI's own client asks for responses over a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from served import MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "Where is Vinga, and when may I visit the island? " * 3
GREEDY: Any = {"model": MODEL, "input": TEXT, "temperature": 0, "max_output_tokens": 12}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]},
    "strict": True,
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine()) as running:
        yield running


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return served.openai()


def test_a_response_says_what_a_chat_says(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": TEXT}], temperature=0, max_completion_tokens=12
    )
    response = client.responses.create(**GREEDY)
    assert response.output_text == chat.choices[0].message.content
    assert response.status == response.output[0].status == "incomplete"  # type: ignore[union-attr]
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == response.usage.input_tokens - 1
    assert response.model_extra["semshare"]["outcome"] == "prefix"  # type: ignore[index]


def test_its_stream_has_openais_events_in_their_order(client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY)
    events = list(client.responses.create(**GREEDY, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 3
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    last: Any = events[-1]
    assert last.response.output_text == whole.output_text
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text


def test_a_call_and_its_result(client: openai.OpenAI) -> None:
    asked: Any = {**GREEDY, "max_output_tokens": 200, "tools": [WEATHER]}
    response = client.responses.create(**asked, tool_choice={"type": "function", "name": "weather"})
    [call] = response.output
    assert call.type == "function_call"
    assert isinstance(json.loads(call.arguments)["days"], int)
    assert response.status == "completed"
    items: Any = [
        {"role": "user", "content": [{"type": "input_text", "text": TEXT}]},
        {"type": "reasoning", "summary": []},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    answer = client.responses.create(**{**asked, "input": items, "tool_choice": "none", "instructions": "Be brief."})
    assert answer.output[0].type == "message"
    with client.responses.stream(**asked, tool_choice="required") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert final.output[0].type == "function_call"
    assert final.output[0].arguments == call.arguments


def test_a_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer"}}, "required": ["year"]}
    form: Any = {"format": {"type": "json_schema", "name": "place", "schema": schema, "strict": True}}
    response = client.responses.create(**{**GREEDY, "max_output_tokens": 60}, text=form)
    assert isinstance(json.loads(response.output_text)["year"], int)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"previous_response_id": "resp_1"}, "keeps no conversation"),
        ({"background": True}, "waited for"),
        ({"input": [{"type": "web_search_call"}]}, "'web_search_call'"),
        ({"tools": [{"type": "web_search"}]}, "'function'"),
        ({"truncation": "auto"}, "'disabled'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "only text"),
        ({"frequency_penalty": 1}, "Unknown parameter"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_it_does_not_have(served: Served, change: Any, says: str) -> None:
    with served.http() as http:
        answer = http.post("/v1/responses", json={**GREEDY, **change})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]
