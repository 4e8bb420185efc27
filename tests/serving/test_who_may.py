"""Keys: who may ask, and whose prompts serve whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.serving import Keys, ServeSettings, make_app
from semshare_integrations.serving.errors import RequestError
from served import ALICE, BOB, MODEL, OPERATOR, Served, logged, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

LETTER = "Dear Ms Berg, we can offer you the position from the first of March, at the salary that we discussed. "


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(tiny_engine(public_namespace="public"), Keys([ALICE, BOB], OPERATOR)) as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(served: Served) -> None:
    served.engine.pool.clear()


def ask(served: Served, key: str, prompt: str = LETTER * 2, **extra: Any) -> dict[str, Any]:
    """The report of a call."""
    answer = served.openai(key).completions.create(
        model=MODEL, prompt=prompt, max_tokens=1, temperature=0, extra_body=extra
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    report: dict[str, Any] = answer.model_extra["semshare"]  # type: ignore[index]
    assert answer.usage.prompt_tokens_details.cached_tokens == report["lossless_prefix_tokens"]
    return report


# --- rows ------------------------------------------------------------------------------------------------------------


def test_two_keys_never_share_rows(served: Served) -> None:
    ask(served, ALICE)
    foreign = ask(served, BOB)
    assert foreign["outcome"] == "miss"
    assert (foreign["reference_ids"], foreign["first_difference"], foreign["similarity"]) == ([], None, None)
    assert foreign["lossless_prefix_tokens"] == 0
    own = ask(served, ALICE)
    assert own["outcome"] == "prefix"
    assert own["lossless_prefix_tokens"] > 100
    served.engine.pool.clear()
    ask(served, ALICE)
    similar = ask(served, BOB, "But. " + LETTER + "And " + LETTER)
    assert (similar["outcome"], similar["reference_ids"]) == ("miss", []), "nor what resembles it"


def test_a_salt_divides_a_keys_rows_and_reaches_nobody_elses(served: Served) -> None:
    ask(served, ALICE, cache_salt="one")
    assert ask(served, ALICE)["outcome"] == "miss"
    assert ask(served, ALICE, cache_salt="two")["outcome"] == "miss"
    assert ask(served, BOB, cache_salt="one")["outcome"] == "miss"
    assert ask(served, ALICE, cache_salt="one")["outcome"] == "prefix"


def test_a_namespace_follows_from_the_key_and_the_salt_alone() -> None:
    first, again = (Keys([ALICE, BOB]).caller(ALICE), Keys([BOB, ALICE]).caller(ALICE))
    assert first.namespace("x") == again.namespace("x"), "a pool on disk serves after a restart"
    names = {Keys([ALICE, BOB]).caller(key).namespace(salt) for key in (ALICE, BOB) for salt in (None, "x", "y", " ")}
    assert len(names) == 8
    assert not any(secret in name for name in names for secret in (ALICE, BOB))
    assert ALICE not in repr(first)
    assert Keys().caller(None).namespace(None) == "default"
    assert Keys().caller(None).namespace("x") != Keys().caller(None).namespace("y")


def test_the_operator_fills_the_public_namespace_for_all(served: Served) -> None:
    with served.http(ALICE) as alice, served.http(OPERATOR) as operator:
        body = {"prompts": [LETTER * 2], "public": True}
        assert alice.post("/v1/pool/warm", json=body).status_code == 403
        warmed = operator.post("/v1/pool/warm", json=body).json()
        assert warmed["prompts"][0]["stored"]
        assert ask(served, ALICE)["outcome"] == "prefix"
        assert alice.post("/v1/pool/clear", json={"public": True}).status_code == 403
        assert operator.post("/v1/pool/clear", json={"public": True}).json()["entries"] == 1


def test_each_sees_and_clears_its_own_part_of_the_pool(served: Served) -> None:
    ask(served, ALICE)
    ask(served, ALICE, cache_salt="one")
    with served.http(ALICE) as alice, served.http(BOB) as bob, served.http(OPERATOR) as operator:
        assert alice.get("/v1/pool").json()["own"]["entries"] == 1
        assert bob.get("/v1/pool").json() == {**bob.get("/v1/pool").json(), "object": "pool"}
        assert bob.get("/v1/pool").json()["own"]["entries"] == 0
        assert "all" not in alice.get("/v1/pool").json()
        assert operator.get("/v1/pool").json()["all"]["entries"] == 2
        assert bob.post("/v1/pool/clear", json={}).json()["entries"] == 0
        assert alice.post("/v1/pool/clear", json={}).json()["entries"] == 1
        assert alice.get("/v1/pool", params={"cache_salt": "one"}).json()["own"]["entries"] == 1
        assert alice.post("/v1/pool/clear", json={"cache_salt": "one"}).json()["entries"] == 1


def test_prompts_that_are_warmed_serve_chats_with_tools(served: Served) -> None:
    messages: Any = [{"role": "system", "content": LETTER}, {"role": "user", "content": "When do I begin?"}]
    tools: Any = [{"type": "function", "function": {"name": "calendar", "parameters": {"type": "object"}}}]
    with served.http(ALICE) as alice:
        prompts = {"prompts": [{"messages": messages, "tools": tools}]}
        assert alice.post("/v1/pool/warm", json=prompts).json()["prompts"][0]["stored"]
        assert alice.post("/v1/pool/warm", json={"prompts": [{"message": 1}]}).status_code == 400
        assert alice.post("/v1/pool/warm", json={"prompts": ["x" * 5000]}).status_code == 400
    answer = served.openai(ALICE).chat.completions.create(
        model=MODEL, messages=messages, tools=tools, tool_choice="none", max_completion_tokens=1
    )
    report = answer.model_extra["semshare"]  # type: ignore[index]
    assert report["lossless_prefix_tokens"] == report["prompt_tokens"] - 1


def test_pinning_is_the_operators_who_may_clear_all(served: Served) -> None:
    with served.http(ALICE) as alice, served.http(OPERATOR) as operator, logged() as lines:
        pinned = {"prompts": [LETTER * 2], "pin": True}
        assert alice.post("/v1/pool/warm", json=pinned).status_code == 403
        assert operator.post("/v1/pool/warm", json=pinned).status_code == 200
        ask(served, ALICE)
        ask(served, BOB, cache_salt="one")
        served.wait(lambda: any("/v1/completions" in line for line in lines))
        name = next(line for line in lines if "/v1/completions" in line).split("caller=")[1].split()[0]
        for body in ({"caller": name}, {"everything": True}):
            assert alice.post("/v1/pool/clear", json=body).status_code == 403
        assert operator.post("/v1/pool/clear", json={"caller": "nobody"}).status_code == 400
        assert operator.post("/v1/pool/clear", json={"caller": name}).json()["entries"] == 1
        assert operator.post("/v1/pool/clear", json={"everything": True}).json()["entries"] == 2


# --- doors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/models", "/v1/pool", "/metrics", "/ready", "/", "/nothing", "/docs"])
def test_everything_but_health_needs_a_key(served: Served, path: str) -> None:
    with served.http() as nobody:
        answer = nobody.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic" if path == "/" else "Bearer")
        assert nobody.get("/health").text == "ok\n"
        assert nobody.head("/health").status_code == 200


def test_a_key_that_is_missing_or_wrong(served: Served) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        served.openai("somebody-without-a-key").models.list()
    assert caught.value.code == "invalid_api_key"
    with served.http() as http:
        missing = http.post("/v1/chat/completions", json={})
        assert missing.status_code == 401
        assert missing.json()["error"]["type"] == "invalid_request_error"
        for header in (f"Basic {ALICE}", ALICE, "Bearer", "Bearer " + ALICE[:-1], "Bearer käse"):
            wrong = http.get("/v1/models", headers={"Authorization": header.encode()})
            assert wrong.status_code == 401, header
        assert http.get("/v1/models", headers={"x-api-key": ALICE}).status_code == 200, "as Anthropic's clients send it"


def test_the_metrics_are_the_operators_where_keys_are_set(served: Served) -> None:
    with serving(tiny_engine(), Keys([ALICE])) as locked, locked.http(ALICE) as alice:
        assert "SEMSHARE_OPERATOR_KEY" in alice.get("/metrics").json()["error"]["message"]
    assert httpx.get(f"{served.url}/metrics", headers={"x-api-key": ALICE}).status_code == 403
    text = httpx.get(f"{served.url}/metrics", headers={"x-api-key": OPERATOR}).text
    assert "semshare:num_requests_running 0.0" in text
    for secret in (ALICE, BOB, OPERATOR, "caller-"):
        assert secret not in text


def test_neither_keys_nor_prompts_are_logged(served: Served) -> None:
    with logged() as lines, served.http(ALICE) as alice:
        requests: list[Callable[[], Any]] = [
            lambda: ask(served, ALICE),
            lambda: alice.post("/v1/completions", json={"model": "Ms Berg", "prompt": LETTER}),
            lambda: alice.get("/v1/models", headers={"x-request-id": "mine", "Authorization": "Bearer " + "wrong" * 5}),
            lambda: alice.get("/v1/models", headers={"x-request-id": "a b\x7f"}),
            lambda: alice.get("/%0aid=forged status=200"),
        ]
        for number, send in enumerate(requests, start=1):
            send()
            served.wait(lambda number=number: len(lines) == number)  # a line comes behind its response
    log = "\n".join(lines)
    first, second, third, fourth, fifth = log.splitlines()
    assert "status=200" in first
    assert "outcome=miss" in first
    assert "reason='the pool holds no prompt of this namespace'" in first
    assert "finish=length" in first
    assert "error=model_not_found" in second
    assert third.startswith("id=mine caller=nobody GET /v1/models status=401")
    assert "id=req_" in fourth
    assert "forged" not in fifth.split("status=404")[1]
    for secret in (ALICE, "wrongwrong", "Berg", "salary"):
        assert secret not in log


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n{ALICE}\n\n  {BOB}  \n")
    keys = Keys.read(file, {"SEMSHARE_API_KEYS": "carol-from-the-environment, ", "SEMSHARE_OPERATOR_KEY": OPERATOR})
    for key in (ALICE, BOB, "carol-from-the-environment"):
        assert not keys.caller(key).operator
    assert keys.caller(OPERATOR).operator
    with pytest.raises(RequestError):
        keys.caller("# of the team")
    assert Keys.read(None, {}).open
    hashed = "#a-key-may-begin-like-a-comment"
    assert Keys.read(None, {"SEMSHARE_API_KEYS": hashed}).caller(hashed)
    for variable in ("SEMSHARE_API_KEYS", "SEMSHARE_OPERATOR_KEY"):
        for empty in ("", " ", ",", " , "):
            with pytest.raises(ConfigError, match="is set, and has no key"):
                Keys.read(None, {variable: empty})
            file.write_text(ALICE)
            with pytest.raises(ConfigError, match="is set, and has no key"):
                Keys.read(file, {variable: empty})
    file.write_text("# none\n")
    with pytest.raises(ConfigError, match="has no key"):
        Keys.read(file, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.read(tmp_path / "nothing", {})


@pytest.mark.parametrize("key", ["short", "has white space in it", "smörgåsbord-med-lax", "with-a-tab\tin-the-middle"])
def test_a_key_that_is_no_key(key: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand") as caught:
        Keys([key])
    assert key not in str(caught.value)
    with pytest.raises(ConfigError, match="stands twice"):
        Keys([ALICE], ALICE)


def test_an_operator_needs_a_public_namespace(served: Served) -> None:
    bare = SemShareEngine(served.engine.model, served.engine.tokenizer)
    with pytest.raises(ConfigError, match="public_namespace='public'"):
        make_app(bare, ServeSettings(model=MODEL), Keys([], OPERATOR))
