"""Which tool must be called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from served import MODEL, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

ASKED = [{"role": "user", "content": "Which one?"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine()) as running:
        yield running


@pytest.mark.parametrize("name", ["none", "auto", "any", "required"])
def test_a_tool_with_the_name_of_a_choice_can_be_chosen(served: Served, name: str) -> None:
    functions = [{"name": each, "parameters": {"type": "object", "properties": {}}} for each in ("other", name)]
    chat: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "max_tokens": 200,
        "tools": [{"type": "function", "function": each} for each in functions],
        "tool_choice": {"type": "function", "function": {"name": name}},
    }
    message: dict[str, Any] = {
        "model": MODEL,
        "messages": ASKED,
        "max_tokens": 200,
        "tools": [{"name": each["name"], "input_schema": each["parameters"]} for each in functions],
        "tool_choice": {"type": "tool", "name": name},
    }
    response: dict[str, Any] = {
        "model": MODEL,
        "input": "Which one?",
        "max_output_tokens": 200,
        "tools": [{"type": "function", **each} for each in functions],
        "tool_choice": {"type": "function", "name": name},
    }
    with served.http() as http:
        choice = http.post("/v1/chat/completions", json=chat).raise_for_status().json()["choices"][0]
        content = http.post("/v1/messages", json=message).raise_for_status().json()["content"]
        output = http.post("/v1/responses", json=response).raise_for_status().json()["output"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [name]
    assert [block["name"] for block in content] == [name]
    assert [item["name"] for item in output] == [name]


def test_an_answer_that_has_a_form_ends_with_it_so_ignore_eos_is_refused(served: Served) -> None:
    asked = {"model": MODEL, "messages": ASKED, "ignore_eos": True, "max_tokens": 60}
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json={**asked, "response_format": {"type": "json_object"}})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "ignore_eos"
        assert http.post("/v1/chat/completions", json=asked).status_code == 200
