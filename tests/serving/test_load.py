"""Two hundred requests on 32 connections: a third cut off, a tenth malformed, two keys with similar prompts."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from semshare_integrations.serving import Keys
from served import ALICE, BOB, MODEL, OPERATOR, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

REQUESTS, CONNECTIONS = 200, 32
TEXT = "The lighthouse at Vinga was built in 1890, and its keeper lit the lamp every evening. "
MALFORMED: list[Any] = [
    {"model": MODEL, "prompt": 7},
    {"model": MODEL, "prompt": "x", "tempature": 1},
    {"model": "other", "prompt": "x"},
    {"model": MODEL, "prompt": "x" * 9000},
    [],
]


@dataclass
class Seen:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    usages: list[dict[str, Any]] = field(default_factory=list)
    references: dict[str, set[str]] = field(default_factory=lambda: {ALICE: set(), BOB: set()})
    cut_off: int = 0


@pytest.fixture
def served() -> Iterator[Served]:
    engine = tiny_engine(max_bytes=20_000_000, public_namespace="public")
    with serving(engine, Keys([ALICE, BOB], OPERATOR), max_waiting=REQUESTS) as running:
        yield running


def body(number: int, name: str) -> dict[str, Any]:
    """Prompts that resemble each other, also those of the two callers; every other answer is streamed."""
    order = random.Random(number).sample([TEXT, TEXT[::-1], TEXT.upper()], 3)
    prompt = f"{''.join(order[:2])} This is {name}'s letter {number % 7}. What is it about?"
    more: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if number % 2 else {}
    return {"model": MODEL, "prompt": prompt, "max_tokens": 12, "seed": number, **more}


def cut_off(served: Served, number: int, key: str, name: str) -> None:
    """Send a request, and leave at some time."""
    content = json.dumps(body(number, name)).encode()
    host, _, port = served.url.removeprefix("http://").partition(":")
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {key}\r\nContent-Length: {len(content)}"
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(head.encode() + b"\r\n\r\n" + content[: len(content) // (number % 2 + 1)])
        if number % 4 == 0:
            line.recv(40)
        else:
            line.settimeout(0.03 * (number % 5) + 0.01)
            with suppress(TimeoutError):
                line.recv(40)


def whole(http: httpx.Client, number: int, name: str, key: str, seen: Seen) -> None:
    if number % 10 == 1:
        answer = http.post("/v1/completions", json=MALFORMED[number // 10 % len(MALFORMED)])
        seen.statuses[answer.status_code] += 1
        return
    answer = http.post("/v1/completions", json=body(number, name))
    seen.statuses[answer.status_code] += 1
    events = [answer.text] if not number % 2 else answer.text.replace("data: ", "").split("\n\n")[:-2]
    objects = [json.loads(event) for event in events]
    seen.usages.append(objects[-1]["usage"])
    reports = [each["semshare"] for each in objects if "semshare" in each]
    assert len(reports) == 1
    seen.references[key] |= set(reports[0]["reference_ids"])


def client(served: Served, first: int, seen: Seen) -> None:
    """One connection after the other's example: every 32nd request."""
    key, name = ((ALICE, "Alice"), (BOB, "Bob"))[first % 2]
    with served.http(key) as http:
        for number in range(first, REQUESTS, CONNECTIONS):
            if number % 3 == 0:
                cut_off(served, number, key, name)
                seen.cut_off += 1
            else:
                whole(http, number, name, key, seen)


def test_nothing_hangs_and_all_adds_up(served: Served, live: Callable[[], int]) -> None:
    engine, seen = served.engine, Seen()
    with ThreadPoolExecutor(CONNECTIONS) as clients:
        for done in [clients.submit(client, served, first, seen) for first in range(CONNECTIONS)]:
            done.result(120)
    served.wait(lambda: (served.admission.running, served.admission.waiting, served.admission.tokens) == (0, 0, 0))
    served.wait(lambda: not engine._lock.locked())

    malformed = sum(number % 10 == 1 and number % 3 != 0 for number in range(REQUESTS))
    assert seen.cut_off == 67
    assert set(seen.statuses) == {200, 400, 404}
    assert seen.statuses[400] + seen.statuses[404] == malformed
    assert seen.statuses[200] == REQUESTS - seen.cut_off - malformed == len(seen.usages)

    assert all(seen.references.values()), "each caller's own prompts served"
    assert not seen.references[ALICE] & seen.references[BOB], "and nobody else's"

    def metric(name: str, **labels: str) -> float:
        return served.metric(f"semshare:{name}", OPERATOR, **labels)

    prompt = sum(usage["prompt_tokens"] for usage in seen.usages)
    generated = sum(usage["completion_tokens"] for usage in seen.usages)
    answered = metric("http_requests_total", route="/v1/completions", status="200")
    cut = metric("request_success_total", finished_reason="abort")
    complete = metric("request_success_total") - cut
    assert metric("http_requests_total", route="/v1/completions", status="400") == seen.statuses[400]
    assert metric("http_requests_total", route="/v1/completions", status="404") == seen.statuses[404]
    assert len(seen.usages) <= answered <= REQUESTS - malformed
    assert len(seen.usages) <= complete <= len(seen.usages) + seen.cut_off
    assert metric("request_success_total", finished_reason="cancelled") == 0, "who left is counted as abort"
    assert metric("answers_total") == complete + cut
    assert metric("prompt_tokens_total") == metric("prompt_tokens_by_source_total") >= prompt
    assert metric("prompt_tokens_cached_by_source_total") + metric("recomputed_tokens_total") == metric(
        "prompt_tokens_total"
    )
    assert metric("generation_tokens_total") >= generated
    assert metric("num_requests_running") == metric("num_requests_waiting") == metric("tokens_in_flight") == 0
    assert metric("time_to_first_token_seconds_count") == complete + cut
    assert metric("pool_bytes") <= 20_000_000
    assert engine.pool.stats().bytes > 0
    engine.pool.clear()
    assert live() < 2_000_000, "what left the pool has left memory"
