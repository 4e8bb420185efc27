"""What pages of other sites cannot make a browser do, and how long a body may take."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterator

import httpx
import pytest

from semshare_integrations.serving import Keys, gate
from semshare_integrations.serving.doors import is_loopback
from served import ALICE, OPERATOR, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(public_namespace="public"), Keys([ALICE], OPERATOR), hosts=("models.example",)) as running:
        yield running


def test_a_password_opens_the_page_alone(served: Served) -> None:
    password = {"Authorization": "Basic " + b64encode(f"x:{OPERATOR}".encode()).decode()}
    assert httpx.get(f"{served.url}/", headers=password).status_code == 200
    for path in ("/v1/models", "/v1/pool", "/metrics"):
        assert httpx.get(served.url + path, headers=password).status_code == 401, path
    assert httpx.post(f"{served.url}/v1/pool/clear", headers=password, json={}).status_code == 401


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_taken(served: Served, kind: str) -> None:
    with served.http(OPERATOR) as operator:
        refused = operator.post("/v1/pool/clear", content=b"{}", headers={"Content-Type": kind} if kind else {})
        assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")
        taken = operator.post("/v1/pool/clear", content=b"{}", headers={"Content-Type": "Application/JSON; charset=x"})
        assert taken.status_code == 200


def test_pages_of_other_sites_are_refused(served: Served) -> None:
    with served.http(OPERATOR) as operator:
        crossing = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
        assert operator.post("/v1/pool/clear", json={}, headers=crossing).status_code == 403
        assert operator.get("/state", headers=crossing).status_code == 403
        link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        page = operator.get("/", headers=link)
        assert page.status_code == 200
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert operator.post("/v1/pool/clear", json={}, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("models.example:443", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("", 403),
    ],
)
def test_a_server_of_its_own_machine_is_asked_as_that(served: Served, host: str, status: int) -> None:
    with served.http(OPERATOR) as operator:
        for path in ("/v1/models", "/health"):
            assert operator.get(path, headers={"Host": host}).status_code == status


def test_what_is_this_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "")))


def test_a_body_that_comes_too_slowly(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_BODY_SECONDS", 0.2)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ALICE}\r\n"
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as line:
        line.sendall(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        assert line.recv(100).startswith(b"HTTP/1.1 408")
