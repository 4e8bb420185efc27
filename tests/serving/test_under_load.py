"""Too many requests, slow ones, and clients that leave: everybody is told, and every place is free afterwards."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest

from semshare_core import PoolConfig, SemShareEngine
from semshare_integrations.serving import Keys
from served import ALICE, MODEL, Served, logged, serving, slowed, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

LONG: Any = {"model": MODEL, "prompt": "Where is Vinga? ", "max_tokens": 3000, "ignore_eos": True, "temperature": 0}
SHORT: Any = {**LONG, "max_tokens": 2}
READ_SLOWLY: Any = {**SHORT, "prompt": "Where is Vinga? " * 200}


@pytest.fixture(scope="module")
def engine() -> SemShareEngine:
    return tiny_engine()


@pytest.fixture
def slow(engine: SemShareEngine) -> Iterator[None]:
    """Each layer takes at least 20 ms."""
    with slowed(engine, 0.02):
        yield


@contextmanager
def asking(served: Served, body: Any, key: str | None = None) -> Iterator[socket.socket]:
    """A request on a socket of its own, whose answer nobody reads; the client leaves at the end."""
    with served.http(key) as http:
        request = http.build_request("POST", "/v1/completions", json=body)
    lines = ["POST /v1/completions HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode() + request.content)
        yield line


def idle(served: Served) -> Callable[[], bool]:
    def is_idle() -> bool:
        free = (served.admission.running, served.admission.waiting, served.admission.tokens) == (0, 0, 0)
        return free and not served.engine._lock.locked()

    return is_idle


def running(served: Served, count: int) -> Callable[[], bool]:
    return lambda: served.metric("semshare:num_requests_running") == count


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [LONG, READ_SLOWLY], ids=["decoding", "prefill"])
def test_a_client_that_leaves_ends_its_work(engine: SemShareEngine, body: Any, stream: bool) -> None:
    with serving(engine) as served, logged() as lines:
        with asking(served, {**body, "max_tokens": 3000, "stream": stream}) as line:
            served.wait(engine._lock.locked)
            if stream and body is LONG:
                assert line.recv(17) == b"HTTP/1.1 200 OK\r\n"
            else:
                time.sleep(0.3 if body is LONG else 0.02)
        served.wait(idle(served), 30)  # 3000 tokens take four minutes
        served.wait(lambda: bool(lines))
        assert "error=client_left" in lines[0]
        if body is LONG:
            assert ("status=200" in lines[0]) == stream, "otherwise it left before the answer began"


@pytest.mark.usefixtures("slow")
def test_a_client_that_leaves_the_queue_is_not_waited_for(engine: SemShareEngine) -> None:
    with serving(engine, max_running=1) as served:
        with asking(served, LONG):
            served.wait(running(served, 1))
            with asking(served, LONG):
                served.wait(lambda: served.metric("semshare:num_requests_waiting") == 1)
            served.wait(lambda: served.metric("semshare:num_requests_waiting") == 0)
            assert served.metric("semshare:num_requests_running") == 1
        served.wait(idle(served))
        assert served.metric("semshare:num_requests_running") == 0


@pytest.mark.usefixtures("slow")
def test_a_full_queue_says_when_to_come_again(engine: SemShareEngine) -> None:
    with serving(engine, max_running=1, max_waiting=1) as served, asking(served, LONG):
        served.wait(running(served, 1))
        with asking(served, LONG):
            served.wait(lambda: served.metric("semshare:num_requests_waiting") == 1)
            with served.http() as http:
                answer = http.post("/v1/completions", json=SHORT)
            assert answer.status_code == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            with served.http() as http:
                assert http.get("/v1/models").status_code == 200, "what needs no engine is answered"
    assert served.admission.waiting == 0


@pytest.mark.usefixtures("slow")
def test_too_many_tokens_are_too_much_although_few_requests_wait(engine: SemShareEngine) -> None:
    with serving(engine, max_waiting_tokens=3500) as served, asking(served, LONG):
        served.wait(running(served, 1))
        with served.http() as http:
            assert http.post("/v1/completions", json={**SHORT, "max_tokens": 1000}).status_code == 429
    served.wait(idle(served))


def test_the_client_comes_again_by_itself(engine: SemShareEngine) -> None:
    with serving(engine, max_running=1, max_waiting=0) as served:
        with slowed(engine, 0.02), asking(served, LONG):
            served.wait(running(served, 1))
            answers = ThreadPoolExecutor(1).submit(
                lambda: served.openai(max_retries=2).completions.create(model=MODEL, prompt="a", max_tokens=1)
            )
            time.sleep(0.3)
        assert answers.result(60).choices


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long(engine: SemShareEngine, stream: bool) -> None:
    with serving(engine, timeout=2) as served, served.http() as http:
        answer = http.post("/v1/completions", json={**LONG, "stream": stream})
        if stream:
            assert answer.status_code == 200
            *_, error, end = answer.text.split("\n\n")
            assert '"code": "timeout"' in error
            assert end == "", "an answer that was cut off is not [DONE]"
            with pytest.raises(openai.APIError, match="timeout"):
                list(served.openai().completions.create(model=MODEL, prompt="a", max_tokens=3000, stream=True))
        else:
            assert answer.status_code == 504
            assert answer.headers["x-should-retry"] == "false"
        assert http.post("/v1/completions", json={**READ_SLOWLY, "max_tokens": 90, "stream": stream}).status_code == (
            200 if stream else 504
        )
        served.wait(idle(served))
        assert served.metric("semshare:http_requests_total", status="504") >= (0 if stream else 1)


@pytest.mark.usefixtures("slow")
def test_a_server_that_stops_lets_answers_end(engine: SemShareEngine) -> None:
    engine = SemShareEngine(engine.model, engine.tokenizer)
    with serving(engine) as served, ThreadPoolExecutor(1) as pool, served.http() as client:
        short = pool.submit(client.post, "/v1/completions", json={**SHORT, "max_tokens": 8})
        served.wait(engine._lock.locked)
        served.server.handle_exit(15, None)
        assert short.result(60).status_code == 200
        with pytest.raises(httpx.ConnectError):
            served.wait(lambda: served.http().get("/ready").status_code == 0)


@pytest.mark.usefixtures("slow")
def test_a_server_that_stops_cuts_off_what_does_not_end(engine: SemShareEngine) -> None:
    engine = SemShareEngine(engine.model, engine.tokenizer)
    with serving(engine) as served, logged() as lines:
        served.server.config.timeout_graceful_shutdown = 1
        with asking(served, LONG):
            served.wait(engine._lock.locked)
            served.server.handle_exit(15, None)
            served.wait(lambda: any("error=shutting_down" in line for line in lines))
        served.wait(lambda: not engine._lock.locked())


def test_a_gate_that_drains_takes_nothing_new(engine: SemShareEngine) -> None:
    with serving(engine) as served, served.http() as http:
        served.gate.draining = True
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200
        refused = http.post("/v1/completions", json=SHORT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        served.gate.draining = False
        assert http.get("/ready").status_code == 200


def test_the_pool_outlives_the_server(tmp_path: Any, engine: SemShareEngine) -> None:
    def report(fresh: SemShareEngine) -> Any:
        with serving(fresh, Keys([ALICE])) as served:
            answer = served.openai(ALICE).completions.create(model=MODEL, prompt="Where is Vinga? " * 9, max_tokens=1)
            return answer.model_extra["semshare"]  # type: ignore[index]

    config = PoolConfig(path=tmp_path)
    first = report(SemShareEngine(engine.model, engine.tokenizer, pool=config))
    again = report(SemShareEngine(engine.model, engine.tokenizer, pool=config))
    assert (first["outcome"], again["outcome"]) == ("miss", "prefix")
