"""Requests that are not answered: status and body as OpenAI's, and the server goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from served import MODEL, Served, logged, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

CHAT: Any = {"model": MODEL, "messages": [{"role": "user", "content": "Where is Vinga?"}], "max_tokens": 2}
TEXT: Any = {"model": MODEL, "prompt": "Where is Vinga?", "max_tokens": 2}
TOOL: Any = {"type": "function", "function": {"name": "weather"}}
JSON = {"Content-Type": "application/json"}
PROVIDERS_TOOL: Any = {"type": "web_search_preview"}


USER: Any = {"role": "user", "content": "x"}
RESULT: Any = {"role": "tool", "content": "x", "tool_call_id": "a"}


def called(arguments: str) -> Any:
    """A chat with a call of a tool."""
    return {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(), max_body_bytes=300_000) as running:
        yield running


def schema(content: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": content}}}


@pytest.mark.parametrize(
    ("change", "param", "code", "says"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type", "Invalid type"),
        ({"temperature": 3}, "temperature", "invalid_value", "less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1"),
        ({"max_tokens": "2"}, "max_tokens", "invalid_type", "Invalid type"),
        ({"stream": "yes"}, "stream", "invalid_type", "Invalid type"),
        ({"seed": 2**70}, "seed", "invalid_value", "less than"),
        ({"temprature": 1}, "temprature", "unknown_parameter", "Unknown parameter: 'temprature'"),
        ({"semshare": {"levle": "fast"}}, "semshare.levle", "unknown_parameter", "Unknown parameter"),
        ({"semshare": {"reuse": "slow"}}, "semshare.reuse", "invalid_value", "'off'"),
        ({"cache_salt": ""}, "cache_salt", "invalid_value", "at least 1 character"),
        ({"cache_salt": "x" * 129}, "cache_salt", "invalid_value", "at most 128 characters"),
        ({"n": 17}, "n", "invalid_value", "limit of 16"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "when stream is true"),
        ({"stop": ["a", ""]}, None, "invalid_value", "non-empty strings"),
        ({"logit_bias": {"one": 1}}, "logit_bias", "invalid_value", "not a token id"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value", "not a token id"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("kind", ["chat", "text"])
def test_a_field_that_is_wrong(served: Served, kind: str, change: Any, param: str | None, code: str, says: str) -> None:
    path, body = ("/v1/chat/completions", CHAT) if kind == "chat" else ("/v1/completions", TEXT)
    refused(served, path, {**body, **change}, param, code, says)


@pytest.mark.parametrize(
    ("change", "param", "code", "says"),
    [
        ({"messages": []}, "messages", "invalid_value", "at least 1 item"),
        ({"messages": "hello"}, "messages", "invalid_type", "valid list"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, None, "invalid_value", "role 'wizard'"),
        ({"messages": [{"role": "user"}]}, None, "invalid_value", "messages[0] has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "invalid_value", "only text"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y", "tool_call_id": "z"}]},
            None,
            "invalid_value",
            "has no call",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
            None,
            "invalid_value",
            "are not JSON",
        ),
        (called("[" * 100_000), None, "invalid_value", "nested too deeply"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": 5}]}, None, "invalid_value", "are no list"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": {"a": 1}}]}, None, "invalid_value", "are no list"),
        ({"messages": [USER, {**RESULT, "tool_call_id": [1]}]}, None, "invalid_value", "must be texts"),
        ({"messages": [USER, {**RESULT, "name": [1]}]}, None, "invalid_value", "must be texts"),
        ({"messages": [5] * 1000}, "messages[0]", "invalid_type", "valid dictionary"),
        ({"messages": [USER] * 5000}, "messages", "context_length_exceeded", "4096"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value", "not a token id"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_value", "not a token id"),
        ({"logit_bias": {"²": 1}}, "logit_bias", "invalid_value", "not a token id"),
        ({"logit_bias": {"5": 1e308}}, "logit_bias.5", "invalid_value", "less than or equal to 100"),
        ({"logit_bias": {str(number): 1 for number in range(2000)}}, "logit_bias", "invalid_value", "too many"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "invalid_value", "0.01"),
        ({"stop_token_ids": [-5]}, "stop_token_ids[0]", "invalid_value", "greater than or equal to 0"),
        ({"stop_token_ids": [10**12]}, "stop_token_ids", "invalid_value", "not below"),
        ({"stop_token_ids": [10**30]}, "stop_token_ids", "invalid_value", "not below"),
        ({"stop_token_ids": [1] * 100}, "stop_token_ids", "invalid_value", "too many"),
        ({"stop": ["x"] * 100}, "stop", "invalid_value", "too many"),
        ({"stop": ["x", 5]}, "stop", "invalid_type", "list of texts"),
        ({"top_k": 10**30}, "top_k", "invalid_value", "less than"),
        ({"semshare": {"store": True, "kept": 1}}, "semshare.kept", "unknown_parameter", "Unknown parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value", "logprobs is true"),
        ({"tools": [TOOL], "tool_choice": "wether"}, None, "invalid_value", "names no tool"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value", "when tools are specified"),
        ({"tools": [PROVIDERS_TOOL]}, "tools[0].type", "invalid_value", "'function'"),
        ({"response_format": {"type": "xml"}}, None, "invalid_value", "is not known"),
        (schema({"type": "no such type"}), None, "invalid_value", "cannot be compiled"),
        (schema({"type": "string", "pattern": "("}), None, "invalid_value", "cannot be compiled"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs", "unsupported_parameter", "not supported"),
        ({"modalities": ["audio"]}, "modalities[0]", "invalid_value", "'text'"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_that_is_wrong(
    served: Served, stream: bool, change: Any, param: str | None, code: str, says: str
) -> None:
    refused(served, "/v1/chat/completions", {**CHAT, **change, "stream": stream}, param, code, says)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": [1, 10**6]}, None, "invalid_value"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_type"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_type"),
        ({"prompt": [[1], "a"]}, "prompt", "invalid_type"),
        ({"prompt": [[1], [True]]}, "prompt", "invalid_type"),
        ({"prompt": [{}, 1]}, "prompt", "invalid_type"),
        ({"prompt": [1] * 5000}, "prompt", "context_length_exceeded"),
        ({"best_of": 5}, "best_of", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"echo": True, "logprobs": 1}, "echo", "unsupported_parameter"),
        ({"prompt": ["x"] * 17}, "prompt", "invalid_value"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_completion_that_is_wrong(served: Served, change: Any, param: str | None, code: str) -> None:
    refused(served, "/v1/completions", {**TEXT, **change}, param, code)


def refused(served: Served, path: str, body: Any, param: str | None, code: str, says: str = "") -> None:
    with served.http() as http:
        answer = http.post(path, json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400, error
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code), error
    assert says in error["message"]
    assert answer.headers["x-request-id"]


def test_another_model(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.openai().chat.completions.create(**{**CHAT, "model": "gpt-9"})
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        served.openai().models.retrieve("gpt-9")
    assert [model.id for model in served.openai().models.list()] == [MODEL]
    assert served.openai().models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(served: Served, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        served.openai().chat.completions.create(
            **{**CHAT, "messages": [{"role": "user", "content": "x" * 5000}], "stream": stream}
        )
    assert caught.value.code == "context_length_exceeded"
    assert "4096" in caught.value.message


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"model": NaN}', b"\xff\xfe", b'"text"'])
def test_a_body_that_is_no_json_object(served: Served, body: bytes) -> None:
    with served.http() as http:
        answer = http.post("/v1/chat/completions", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_a_missing_field(served: Served) -> None:
    with served.http() as http:
        error = http.post("/v1/chat/completions", json={"model": MODEL}).json()["error"]
    assert (error["code"], error["param"]) == ("missing_required_parameter", "messages")


def test_fields_that_are_null_are_left_out(served: Served) -> None:
    with served.http() as http:
        answer = http.post("/v1/chat/completions", json={**CHAT, "stop": None, "n": None, "tools": None})
    assert answer.status_code == 200


def test_a_huge_body_is_refused_before_it_is_read(served: Served) -> None:
    with served.http() as http:
        announced = http.post("/v1/completions", content=b"x" * 300_001, headers=JSON)
        chunked = http.post("/v1/completions", content=(b"x" * 1000 for _ in range(301)), headers=JSON)
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: 999999999999\r\n\r\n")
        assert line.recv(100).startswith(b"HTTP/1.1 413"), "nothing was sent of it"


def test_a_path_that_is_unknown_and_a_method_that_is_wrong(served: Served) -> None:
    with served.http() as http:
        unknown = http.post("/v1/embeddings", json={})
        wrong = http.get("/v1/completions")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    assert wrong.status_code == 405
    assert "GET" in wrong.json()["error"]["message"]


def test_what_nobody_expected_tells_nothing_and_is_not_tried_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError(f"the prompt was: {CHAT}")

    monkeypatch.setattr(served.engine, "stream", broken)
    with logged() as lines, served.http() as http:
        answer = http.post("/v1/chat/completions", json=CHAT)
        served.wait(lambda: len(lines) == 2)
    assert answer.status_code == 500
    assert answer.headers["x-should-retry"] == "false"
    assert answer.json()["error"]["type"] == "server_error"
    assert "failed with a RuntimeError" in lines[0]
    assert "in broken" in lines[0]
    assert "Vinga" not in answer.text + "".join(lines)
    monkeypatch.undo()
    with served.http() as http:
        assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
