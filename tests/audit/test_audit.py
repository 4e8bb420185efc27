"""What SemShare would have saved: requests from a log, per kind of edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from semshare_integrations.audit.command import audit
from semshare_integrations.audit.replay import Kind, PrefixCache, Replayed
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

LIGHT = "The lighthouse at Vinga was built in 1890. Its keeper lit the lamp every evening. " * 3
FERRY = "The ferry to Vinga leaves at ten o'clock. It is a trip of forty minutes from here. " * 3


def chat(system: str, question: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "gpt-5", "messages": messages, "temperature": 0.5, **more}


LINES: list[Any] = [
    chat(LIGHT + FERRY, "When was it built?"),
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": chat(FERRY + LIGHT, "When?")},
    {"request": {"model": "gpt-5", "prompt": LIGHT + FERRY}},
    chat(LIGHT + FERRY, "When was it built, and by whom?"),
    chat(LIGHT + FERRY, "When was it built?", user="somebody else"),
    {"model": "gpt-5", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    monkeypatch.setattr(
        SemShareEngine,
        "from_pretrained",
        lambda name, *, pool, policy, **_: SemShareEngine(model, tokenizer, pool=pool, policy=policy),
    )
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([*map(json.dumps, LINES), ""]))
    return path


def test_a_table_has_a_line_for_each_kind_of_edit(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit(log, sample=1.0, as_json=True)
    said = capsys.readouterr()
    *kinds, everything = json.loads(said.out)
    found = {kind["edit"]: kind for kind in kinds}
    assert found["nothing like it before"]["requests"] == 2, "the first, and somebody else's"
    assert found["nothing like it before"]["computed_share"] == 1.0
    assert sum(kind["requests"] for kind in kinds) == everything["requests"] == 5
    assert sum(kind["prompt_tokens"] for kind in kinds) == everything["prompt_tokens"]
    moved = next(kind for kind in kinds if kind["edit"] not in ("nothing like it before",) and kind["compared"])
    assert moved["mean_kl"] > -1e-6
    assert 0 < moved["computed_share"] < 1
    assert "line 6 is left out" in said.err
    assert "only text" in said.err


def test_a_page_can_be_shown_and_quotes_nothing(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    audit(log, sample=0.0, page=page, model="tiny & small")
    text = page.read_text()
    assert "tiny &amp; small" in text
    assert "nothing like it before" in text
    assert "Vinga" not in text
    assert "could not be read or run: 1." in text
    assert "{{" not in text
    assert "edit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no requests"),
        ("{", "Line 1: it is not JSON"),
        ('\n{"a": 1}\n', "Line 2: it has neither"),
        ("[]", "neither"),
    ],
)
def test_a_log_that_is_none(log: Path, content: str, says: str) -> None:
    log.write_text(content)
    with pytest.raises(ConfigError, match=says):
        audit(log)
    with pytest.raises(ConfigError, match="cannot be read"):
        audit(log.parent / "nothing.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "us',
        '{"model": "text-embedding-4", "input": "a text"}',
        '{"prompt": null}',
        '{"prompt": {"a": 1}}',
        '{"prompt": [true]}',
        '{"messages": null}',
        '{"messages": 7}',
        '{"messages": ["a text"]}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "user", "content": "hi"}], "tools": [7]}',
        '{"messages": [{"role": "user", "content": "hi"}], "tools": [{"function": 5}]}',
        '{"messages": [{"role": "user", "content": "hi"}], "tools": [{"function": {}}]}',
        '{"prompt": ' + "1" * 5000 + "}",
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_request_is_left_out_and_the_others_count(
    log: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write_text(f"{json.dumps(LINES[0])}\n{line}\n{json.dumps(LINES[3])}\n")
    audit(log, as_json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)[-1]["requests"] == 2
    assert said.err.startswith("line 2 is left out: ")


def test_a_user_of_any_name_has_a_namespace(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(json.dumps({"prompt": LIGHT, "user": "\ud800"}))
    audit(log, as_json=True)
    assert json.loads(capsys.readouterr().out)[-1]["requests"] == 1


def test_several_prompts_in_a_request_count_each(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.write_text(json.dumps({"prompt": [LIGHT, LIGHT + FERRY]}))
    audit(log, as_json=True)
    *kinds, everything = json.loads(capsys.readouterr().out)
    assert everything["requests"] == 2
    assert {kind["edit"] for kind in kinds} == {"nothing like it before", "text added at the end"}


def test_a_prefix_cache_serves_what_it_computed_whatever_ours_approximated(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our own lossless prefix ends where an approximate answer began; another server's goes on."""
    chain = [chat(LIGHT + FERRY, "When?"), chat(FERRY + LIGHT, "When?"), chat(FERRY + LIGHT, "Where is it, and when?")]
    log.write_text("\n".join(map(json.dumps, chain)))
    audit(log, as_json=True)
    everything = json.loads(capsys.readouterr().out)[-1]
    shared = len(json.dumps(chain[2])) - 200  # bytes, which are this model's tokens
    assert everything["prefix_share"] * everything["prompt_tokens"] >= shared


def test_blocks_of_a_prefix_cache() -> None:
    cache = PrefixCache()
    assert cache.served("a", range(40)) == 0
    assert cache.served("a", range(40)) == 32, "whole blocks"
    assert cache.served("a", range(32)) == 31, "the last token is computed"
    assert cache.served("a", [*range(20), *range(30, 50)]) == 16
    assert cache.served("a", [7, *range(1, 40)]) == 0, "no block counts without those before it"
    assert cache.served("b", range(40)) == 0


def test_how_much_faster_counts_requests_that_reused_nothing() -> None:
    """A sample of one stands for two that reused rows; the third was prefilled in full."""

    def request(ttft: float, reused: int, full: float | None = None) -> Replayed:
        return Replayed(1, "x", 10, 10 - reused, reused > 0, ttft, 0, None if full is None else 0.0, full)

    assert Kind("x", [request(10, 5, 100), request(12, 5), request(80, 0)]).speedup == pytest.approx(280 / 100)
    assert Kind("x", [request(80, 0)]).speedup == 1
    assert Kind("x", [request(10, 5)]).speedup is None, "nothing was compared"
