"""When a place is free again: when the engine's thread has ended, whether or not anybody reads the answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from semshare_core import SemShareEngine
from semshare_integrations.adapter import in_thread
from semshare_integrations.serving import gate
from served import MODEL, Served, logged, serving, slowed, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

STREAM: Any = {"model": MODEL, "prompt": "hello", "ignore_eos": True, "stream": True}
LARGE: Any = {**STREAM, "max_tokens": 600, "logprobs": 20}  # more than all buffers hold


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    ready = tiny_engine()
    ready.generate("x", max_new_tokens=1)  # what the first call prepares takes seconds
    return ready


@contextmanager
def asked(served: Served, body: Any) -> Iterator[socket.socket]:
    """A request whose answer nobody reads, on a line that holds little."""
    content = json.dumps(body).encode()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        line.connect(("127.0.0.1", served.server.port))
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        line.sendall(b"Content-Length: %d\r\n\r\n" % len(content) + content)
        line.settimeout(20)
        yield line


def test_who_does_not_read_keeps_no_place(engine: SemShareEngine) -> None:
    with serving(engine, max_running=1) as served, logged() as lines:
        served.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with asked(served, LARGE):
            served.wait(lambda: served.admission.running == 1)
            served.wait(lambda: served.admission.running == 0, 60)
            assert not lines, "the client is still there, and has not read"
            with served.http() as http:
                answer = http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 1})
            assert answer.status_code == 200


def test_who_does_not_read_is_cut_off_in_the_end(engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_SLACK", -29.0)  # a deadline of a second
    with serving(engine, timeout=30) as served, logged() as lines:
        served.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        with asked(served, LARGE):
            served.wait(lambda: any("error=client_left" in line for line in lines), 30)
            served.wait(lambda: served.admission.running == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_place_is_not_free_before_the_model_is(engine: SemShareEngine, stream: bool) -> None:
    with serving(engine) as served, slowed(engine, 0.2):
        with asked(served, {**STREAM, "stream": stream, "max_tokens": 100}) as line:
            if stream:
                assert line.recv(17) == b"HTTP/1.1 200 OK\r\n"
            else:
                served.wait(engine._lock.locked)
        early = []

        def free() -> bool:
            freed = served.admission.running == 0
            early.append(freed and engine._lock.locked())
            return freed

        served.wait(free)
        assert not any(early)
        served.wait(lambda: not engine._lock.locked())


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_whose_client_left_is_counted_as_an_abort(engine: SemShareEngine, stream: bool) -> None:
    with serving(engine) as served:
        with slowed(engine, 0.02), asked(served, {**STREAM, "stream": stream, "max_tokens": 3000}) as line:
            if stream:
                line.recv(17)
            else:
                served.wait(lambda: engine._lock.locked())
                time.sleep(0.5)
        served.wait(lambda: served.admission.running == 0)
        served.wait(lambda: not engine._lock.locked())
        assert served.metric("semshare:request_success_total", finished_reason="cancelled") == 0
        assert served.metric("semshare:request_success_total", finished_reason="abort") == 1


def test_counting_tokens_waits_its_turn(engine: SemShareEngine) -> None:
    with serving(engine, max_running=1, max_waiting=0) as served, served.http() as http:
        chat = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        assert http.post("/v1/messages/count_tokens", json=chat).json()["input_tokens"] > 0
        with slowed(engine, 0.02), asked(served, {**STREAM, "max_tokens": 3000}):
            served.wait(lambda: served.admission.running == 1)
            assert http.post("/v1/messages/count_tokens", json=chat).status_code == 429
            assert http.post("/v1/pool/warm", json={"prompts": ["x"]}).status_code == 429
        served.wait(lambda: served.admission.running == 0)


def test_a_huge_limit_of_tokens_shuts_nobody_out(engine: SemShareEngine) -> None:
    with serving(engine) as served, slowed(engine, 0.02), asked(served, {**STREAM, "max_tokens": 10**7}):
        served.wait(lambda: served.admission.running == 1)
        assert served.admission.tokens <= engine.context + 100
        with asked(served, {**STREAM, "max_tokens": 1}):
            served.wait(lambda: served.admission.running == 2)


async def test_a_thread_that_cannot_start_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ended: list[bool] = []
    parts = in_thread(lambda _: iter(()), ended=lambda: ended.append(True))  # type: ignore[arg-type, return-value]
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            await asyncio.wait_for(anext(parts), 5)
    assert ended == [True]


def test_the_state_ends_and_a_server_that_should_exit_drains(
    engine: SemShareEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semshare_integrations.serving import page

    monkeypatch.setattr(page, "_LONGEST", 0.5)
    with serving(engine) as served:
        assert httpx.get(f"{served.url}/state", timeout=30).text.startswith("data: {"), "and it ends"
        served.server.should_exit = True
        served.wait(lambda: served.gate.draining)
