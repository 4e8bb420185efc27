"""Requests that would take the machine for minutes: schemas that are hard, and texts of megabytes."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event, Timer
from typing import Any

import pytest

from semshare_core import SemShareEngine
from semshare_core.prompt import encode
from semshare_integrations.adapter import chat_call
from semshare_integrations.serving import gate
from served import MODEL, Served, logged, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

HELLO: Any = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
HARD: Any = {**HELLO, "response_format": {"type": "json_object"}, "max_tokens": 100}


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    return tiny_engine()


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> Event:
    """The search for an answer's end goes on until somebody ends it. The event: it has begun."""
    begun = Event()

    def search(*given: Any) -> Any:
        begun.set()
        while True:
            given[-1].check()
            Event().wait(0.01)

    monkeypatch.setattr(chat_call, "constraint", search)
    return begun


@pytest.fixture
def served(engine: SemShareEngine) -> Iterator[Served]:
    with serving(engine, timeout=60) as running:
        yield running


def test_a_hard_schema_holds_up_no_other_chat_and_ends_when_its_client_leaves(served: Served, searching: Event) -> None:
    client = served.http()
    request = client.build_request("POST", "/v1/chat/completions", json={**HARD, "stream": True})
    with served.leaving(request):
        assert searching.wait(20)
        with served.http() as http:
            assert http.post("/v1/chat/completions", json=HELLO).status_code == 200
        assert served.admission.running == 1, "it has only its own place"
    served.wait(lambda: served.admission.running == 0)


def test_a_hard_schema_has_no_more_time_than_others(engine: SemShareEngine, searching: Event) -> None:
    with serving(engine, timeout=1) as served, served.http() as http:
        for stream in (False, True):
            answer = http.post("/v1/chat/completions", json={**HARD, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """A call is made, before the engine has it, until the event is set."""
    go, real = Event(), chat_call.ChatCall.of_text

    def slow(*given: Any) -> Any:
        assert go.wait(60)
        return real(*given)

    monkeypatch.setattr(chat_call.ChatCall, "of_text", slow)
    yield go
    go.set()


TEXT: Any = {"model": MODEL, "prompt": "hello", "max_tokens": 1}


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_limit_holds_before_the_engine_and_is_told_at_once(
    engine: SemShareEngine, making: Event, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_SLACK", -29.5)  # half a second in all
    with serving(engine, timeout=30) as served, logged() as lines, served.http() as http:
        answer = http.post("/v1/completions", json={**TEXT, "stream": stream})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert answer.headers["x-should-retry"] == "false"
        assert served.admission.running == 1, "the thread goes on"
        making.set()
        served.wait(lambda: served.admission.running == 0)
        served.wait(lambda: any("status=504" in line and "error=timeout" in line for line in lines))


def test_the_time_to_the_first_token_begins_with_the_request(engine: SemShareEngine, making: Event) -> None:
    with serving(engine) as served, served.http() as http:
        Timer(0.4, making.set).start()
        http.post("/v1/completions", json=TEXT).raise_for_status()
        for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
            assert served.metric(f"semshare:{name}_sum") > 0.3, name


CHAT = [{"role": "user", "content": "<|start|>" * 300_000}]
LONG: dict[str, Any] = {
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/completions": {"prompt": CHAT[0]["content"]},
    "/v1/responses": {"input": CHAT[0]["content"]},
    "/v1/messages": {"messages": CHAT, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": CHAT},
    "/v1/pool/warm": {"prompts": [CHAT]},
}


@pytest.mark.parametrize("path", LONG)
def test_a_text_of_megabytes_is_refused_before_it_is_tokenized(
    served: Served, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("encode_text", "control_tokens"):
        monkeypatch.setattr(encode, name, lambda *_, **__: pytest.fail("it was tokenized"))
    body = LONG[path] if path.endswith("warm") else {"model": MODEL, **LONG[path]}
    with served.http() as http:
        answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert "characters, which more than the model's context" in answer.json()["error"]["message"]
