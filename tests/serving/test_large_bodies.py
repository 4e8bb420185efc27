"""Large bodies of any content are read quickly, and do not hold up the other requests."""

from __future__ import annotations

from threading import Event, Thread
from typing import Any

import pytest
from pydantic import ValidationError

from semshare_integrations.serving import messages_request, parsing, responses_request, status
from semshare_integrations.serving.chat import ChatRequest
from semshare_integrations.serving.completions import CompletionRequest
from semshare_integrations.serving.errors import RequestError
from served import MODEL, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

MANY = 900_000
REQUESTS: dict[str, tuple[Any, str]] = {
    "token ids": (CompletionRequest, '"prompt":[' + "1," * MANY + '"x"]'),
    "objects": (CompletionRequest, '"prompt":[' + "{}," * MANY + "1]"),
    "lists": (CompletionRequest, '"prompt":[[' + "1.5," * MANY + "1]]"),
    "stops": (CompletionRequest, '"prompt":"x","stop":[' + "1," * MANY + "1]"),
    "biases": (ChatRequest, '"logit_bias":{' + ",".join(f'"{n}":"x"' for n in range(MANY)) + "}"),
    "messages": (ChatRequest, '"messages":[' + "1," * MANY + "1]"),
    "tools": (ChatRequest, '"messages":[{}],"tools":[' + "1," * MANY + "1]"),
    "unknown": (ChatRequest, ",".join(f'"x{n}":1' for n in range(MANY))),
    "inner": (ChatRequest, '"messages":[{}],"semshare":{' + ",".join(f'"x{n}":1' for n in range(MANY)) + "}"),
    "turns": (messages_request.MessagesRequest, '"messages":[' + "1," * MANY + "1]"),
    "blocks": (messages_request.MessagesRequest, '"system":[' + "1," * MANY + "1]"),
    "input": (responses_request.ResponsesRequest, '"input":[' + "1," * MANY + "1]"),
    "prompts": (status.WarmRequest, '"prompts":[[' + "1," * MANY + "1]]"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_first_mistake_is_enough(name: str) -> None:
    model, content = REQUESTS[name]
    body = f'{{"model":"{MODEL}",{content}}}'.encode()
    with pytest.raises(RequestError) as caught:
        parsing.parse(body, model)
    assert caught.value.status == 400
    found = caught.value.__context__
    assert isinstance(found, ValidationError)
    assert found.error_count() <= 3, "one for each field: a list of all mistakes takes ten times as long"


def test_more_values_than_anybody_needs() -> None:
    with pytest.raises(RequestError, match="more than 1000000 values"):
        parsing.parse(b'{"prompt":[' + b"1," * 1_000_001 + b"1]}", CompletionRequest)


def test_large_bodies_are_read_one_after_the_other_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading of one is held up, and the server answers meanwhile."""
    reading, go, most = Event(), Event(), []
    real = parsing.parse

    def slow(body: bytes, model: Any) -> Any:
        if len(body) > parsing._SMALL:
            most.append(1)
            reading.set()
            assert go.wait(20)
        return real(body, model)

    monkeypatch.setattr(parsing, "parse", slow)
    with serving(tiny_engine()) as served:
        body = {"model": MODEL, "prompt": "x" * 100_000}
        askers = [Thread(target=lambda: served.http().post("/v1/completions", json=body)) for _ in range(2)]
        for asker in askers:
            asker.start()
        assert reading.wait(20)
        with served.http() as http:
            assert http.get("/health").status_code == 200
            small = {"model": MODEL, "prompt": "x", "max_tokens": 1}
            assert http.post("/v1/completions", json=small).status_code == 200
        assert len(most) == 1
        go.set()
        for asker in askers:
            asker.join(20)
        assert len(most) == 2
