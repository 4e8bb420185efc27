"""The page that shows what is happening, in a real browser and to those who may see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browser import CHROMIUM, opened
from semshare_integrations.serving import Keys
from semshare_integrations.serving import page as page_of_server
from served import ALICE, OPERATOR, Served, serving, tiny_engine

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The lighthouse at Vinga was built in 1890. Its keeper lit the lamp every evening. "


@pytest.fixture
def served() -> Iterator[Served]:
    """Three answers: a miss, one with moved text, one whose reason might do harm."""
    with serving(tiny_engine(), model="tiny <b>") as running:
        client = running.openai()
        for prompt in (f"{TEXT * 3}\n\nWhen?", f"And: {TEXT * 3}\n\nWho?", f"{TEXT * 3}\n\nWhen?"):
            client.completions.create(model="tiny <b>", prompt=prompt, max_tokens=3)
        yield running


def state_of(served: Served, key: str | None = None) -> Any:
    """The first event."""
    with served.http(key) as http, http.stream("GET", "/state") as stream:
        line = next(line for line in stream.iter_lines() if line)
    return json.loads(line.removeprefix("data: "))


def test_its_state_is_what_happened(served: Served) -> None:
    state = state_of(served)
    assert (state["running"], state["waiting"], state["in_flight"]) == (0, 0, 0)
    assert sum(state["outcomes"].values()) == len(state["seen"]) == len(state["ttft"]) == 3
    assert sum(state["tokens"][source] for source in ("prefix", "moved", "fuzzy", "new")) == served.metric(
        "semshare:prompt_tokens_total"
    )
    assert state["pool"]["entries"] == served.engine.pool.stats().entries
    last = state["seen"][0]
    assert last["outcome"] == "prefix"
    assert last["strip"].startswith("<svg")
    assert "Vinga" not in json.dumps(state)


def test_it_is_the_operators_where_keys_are_set(served: Served) -> None:
    with serving(tiny_engine(public_namespace="public"), Keys([ALICE], OPERATOR)) as locked:
        assert state_of(locked, OPERATOR)["seen"] == []
        with locked.http(ALICE) as alice, locked.http() as browser:
            for path in ("/", "/state"):
                assert alice.get(path).status_code == 403
                assert browser.get(path).headers["www-authenticate"].startswith("Basic")
            assert browser.get("/", auth=("anything", OPERATOR)).status_code == 200
            assert browser.get("/", auth=("anything", "wrong" * 5)).status_code == 401
    with serving(tiny_engine(), Keys([ALICE])) as without, without.http(ALICE) as alice:
        assert "SEMSHARE_OPERATOR_KEY" in alice.get("/").text


def test_it_loads_nothing_from_elsewhere_and_escapes(served: Served) -> None:
    with served.http() as http:
        page = http.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "tiny &lt;b&gt;" in page.text
    assert "{{" not in page.text
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "https://" not in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_it(served: Served, width: int, tmp_path: Path) -> None:
    picture = tmp_path / f"page-{width}.png"
    with opened(f"{served.url}/", tmp_path / "profile", width) as page:
        page.wait("document.querySelectorAll('#seen li').length === 3")
        assert page.value("document.querySelector('#seen strong').textContent") == "prefix"
        assert page.value("document.querySelectorAll('#seen svg').length") == 3
        assert page.value("document.getElementById('requests').textContent").startswith("running0waiting0")
        assert page.value("document.documentElement.scrollWidth") <= width, "nothing sticks out at the side"
        served.openai().completions.create(model="tiny <b>", prompt=f"{TEXT * 4}\n\nWhere?", max_tokens=2)
        page.wait("document.querySelectorAll('#seen li').length === 4")
        page.screenshot(picture)
    image = Image.open(picture).convert("RGB")
    assert image.width == width
    colours = {colour for _, colour in image.getcolors(1 << 24) or ()}
    assert (0, 0x72, 0xB2) in colours, "the prefix's blue, in the strips and the bars"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_comes_again_when_a_stream_of_states_ends(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_of_server, "_LONGEST", 0.1)
    with opened(f"{served.url}/", tmp_path / "profile", 800) as page:
        page.wait("document.querySelectorAll('#seen li').length === 3")
        page.value("window.said = ''; setInterval(() => said += document.getElementById('lost').textContent, 20)")
        before = served.metric("semshare:http_requests_total", route="/state")
        served.wait(lambda: served.metric("semshare:http_requests_total", route="/state") > before + 2)
        assert page.value("window.said") == "", "a stream that ends is no server that does not answer"
        served.gate.draining = True
        page.wait("document.getElementById('lost').textContent.includes('does not answer')")
        served.gate.draining = False
        page.wait("document.getElementById('lost').textContent === ''")
