"""``semshare why``: two files in, and the reason and the first difference out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from semshare_core import PoolConfig, SemShareEngine
from semshare_core.cli.main import main
from semshare_core.cli.why import _ADVICE
from semshare_core.report.first_difference import FirstDifference
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)
OLD, NEW = f"It is Monday.\n\n{TEXT}\n\nWho?", f"It is Tuesday.\n\n{TEXT}\n\nWho?"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model's folder, beside two prompts."""
    monkeypatch.setenv("SEMSHARE_CACHE", str(tmp_path / "cache"))
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "old.txt").write_text(OLD)
    (tmp_path / "new.txt").write_text(NEW)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["why", *map(str, arguments)])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_two_prompts_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, folder / "old.txt", folder / "new.txt", "--model", folder / "model", "--device", "cpu")
    assert code == 0
    lines = {line[:9].strip(): line[10:] for line in out.splitlines()}
    assert lines["outcome"] == "semantic at level 'balanced'"
    assert lines["why"] == "the model is not calibrated: a fixed share is recomputed"
    assert lines["differs"] == "at token 6 (date or time)"
    assert lines["here"] == repr(NEW[6:46])
    assert lines["before"] == repr(OLD[6:46])
    assert "beside the question" in lines["advice"]
    assert "semshare calibrate" in lines["note"]


def test_a_pools_folder_is_asked_and_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = folder / "pool"
    engine = SemShareEngine.from_pretrained(folder / "model", device="cpu", pool=PoolConfig(path=pool))
    engine.warm([OLD], namespace="alice")
    engine.pool.close()
    asked: list[Any] = [folder / "new.txt", "--model", folder / "model", "--device", "cpu", "--pool", pool, "--json"]
    reports = {}
    for who in ("alice", "bob"):
        code, out, _ = run(capsys, *asked, "--namespace", who, "--reuse", "exact")
        assert code == 0
        reports[who] = json.loads(out)
    assert reports["alice"]["first_difference"] == {
        "index": 6,
        "kind": "date or time",
        "here": NEW[6:46],
        "there": OLD[6:46],
    }
    assert reports["bob"]["reason"] == "the pool holds no prompt of this namespace"
    again = SemShareEngine.from_pretrained(folder / "model", device="cpu", pool=PoolConfig(path=pool))
    assert again.pool.stats().entries == 1
    again.pool.close()


def test_chat_messages_come_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "Yes."}]
    for name, more in (("a.json", "Who?"), ("b.json", "When?")):
        (folder / name).write_text(json.dumps({"messages": [*messages, {"role": "user", "content": more}]}))
    model = ["--model", folder / "model", "--device", "cpu", "--json"]
    code, out, said = run(capsys, folder / "a.json", folder / "b.json", *model)
    if code:  # the tiny tokenizer may have no chat template, which is said
        assert "chat template" in said
    else:
        assert json.loads(out)["first_difference"]["here"].startswith("en?")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("gone.txt", None, "cannot be read"),
        ("bad.json", "{", "is not JSON"),
        ("none.json", '{"texts": []}', "has no messages"),
    ],
)
def test_a_file_that_is_no_prompt_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, why: str
) -> None:
    if content is not None:
        (folder / name).write_text(content)
    code, _, said = run(capsys, folder / "old.txt", folder / name, "--model", "no-such-model")
    assert code == 1
    assert name in said
    assert why in said


def test_one_prompt_alone_is_compared_with_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = run(capsys, folder / "new.txt")
    assert code == 2
    assert "--pool" in said
    code, _, said = run(capsys, folder / "old.txt", folder / "new.txt", "--reuse", "best")
    assert code == 1
    assert "--reuse='best'" in said


def test_there_is_advice_for_every_kind() -> None:
    kinds = FirstDifference.model_json_schema()["properties"]["kind"]["enum"]
    assert set(_ADVICE) == set(kinds)
