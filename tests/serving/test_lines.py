"""Connections and bodies: nobody holds a line, or the machine's memory, by sending little or much."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from typing import Any

import pytest

from semshare_core import SemShareEngine
from semshare_integrations.serving import app, gate, parsing, run
from served import MODEL, Served, logged, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: Any = {"model": MODEL, "prompt": "x", "max_tokens": 1}
LARGE: Any = {**SMALL, "prompt": "x" * 100_000}


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    return tiny_engine()


@contextmanager
def line(served: Served, sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=30) as opened:
        opened.sendall(sent)
        yield opened


def rest(opened: socket.socket) -> bytes:
    """What comes until the server closes the line."""
    found = b""
    while more := opened.recv(65536):
        found += more
    return found


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("sent", [b"", HEALTH, HEALTH + b"\r\n" + HEALTH], ids=["silent", "half", "the second half"])
def test_who_sends_no_whole_head_is_cut_off(
    engine: SemShareEngine, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_HEAD_SECONDS", 0.3)
    with serving(engine) as served, line(served, sent) as opened:
        assert rest(opened).count(b"200 OK") == sent.count(b"\r\n\r\n")


def test_a_request_that_takes_longer_than_its_head_may_is_answered(
    engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_HEAD_SECONDS", 0.2)
    reading, real = Event(), parsing.parse

    def slow(body: bytes, model: Any) -> Any:
        reading.wait(0.6)
        return real(body, model)

    monkeypatch.setattr(parsing, "parse", slow)
    with serving(engine) as served, served.http() as http:
        assert http.post("/v1/completions", json=SMALL).status_code == 200


def test_bodies_together_have_a_limit(engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_BODIES", 1)
    content = json.dumps(LARGE).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(content)
    with serving(engine, max_body_bytes=len(content)) as served, served.http() as http:
        with line(served, head + content[:-10]):
            served.wait(lambda: served.gate._bodies == len(content) - 10)
            refused = http.post("/v1/completions", json=SMALL)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        served.wait(lambda: served.gate._bodies == 0)
        assert http.post("/v1/completions", json=SMALL).status_code == 200
        served.wait(lambda: served.gate._bodies == 0)  # it counts until its answer has been sent
        assert http.post("/v1/completions", json=LARGE).json()["error"]["code"] == "context_length_exceeded"
        served.wait(lambda: served.gate._bodies == 0)


def test_who_leaves_while_a_body_is_read_lets_no_other_large_one_in(
    engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go, read = Event(), Event(), []

    def slow(body: bytes, model: Any) -> Any:
        read.append(len(body))
        reading.set()
        assert go.wait(30)

    monkeypatch.setattr(parsing, "parse", slow)
    with serving(engine) as served, logged() as lines, served.http() as http:
        request = http.build_request("POST", "/v1/completions", json=LARGE)
        with ExitStack() as leaving:
            leaving.enter_context(served.leaving(request))
            assert reading.wait(30)
        with served.leaving(request):
            served.wait(lambda: served.gate._bodies > 150_000)
            assert len(read) == 1
            assert not lines, "it is not forgotten before it is read"
            go.set()
            served.wait(lambda: len(read) == 2)


@pytest.mark.parametrize("stuck", [False, True])
def test_who_is_cut_off_by_the_end_is_told(
    engine: SemShareEngine, stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "_LAST_SECONDS", 0.2 if stuck else 60)
    monkeypatch.setattr(engine.pool, "close", lambda: closed.append(True))
    closed: list[bool] = []
    long = {**SMALL, "max_tokens": 4000, "ignore_eos": True}
    with ExitStack() as stack:
        with serving(engine) as served, served.http() as http:
            lines = stack.enter_context(logged())
            served.server.config.timeout_graceful_shutdown = 0
            request = http.build_request("POST", "/v1/completions", json=long)
            opened = stack.enter_context(served.leaving(request))
            served.wait(lambda: served.admission.running == 1)
            served.admission.running += stuck
        answer = rest(opened)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"shutting_down" in answer
    assert b"retry-after: 5" in answer
    assert any("status=503" in line for line in lines)
    assert bool(closed) is not stuck
    assert any("does not end" in line for line in lines) is stuck
