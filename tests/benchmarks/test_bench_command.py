"""The benchmark suite's command lines, on the tiny model and rows of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import __main__ as bench
from benchmarks.bench.record import read_record
from benchmarks.corpora import Row, write_rows
from benchmarks.report import __main__ as report

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all. " * 3
ROWS = [
    Row(id="asked", reference=TEXT, target="Yes. " + TEXT, question="Who jumps?", gold="fox", old="cat"),
    Row(id="not asked", reference=TEXT, target=TEXT + "And then?"),
]


def _run(monkeypatch: pytest.MonkeyPatch, module: Any, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    return int(module.main())


def test_rows_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, loads: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, out = tmp_path / "mine.jsonl", tmp_path / "bench.json"
    write_rows(rows, ROWS)
    systems = ("--systems", "ours balanced", "prefix cache")
    assert _run(monkeypatch, bench, "--rows", str(rows), *systems, "--threads", "1", "--out", str(out)) == 0
    assert len(loads) == 1
    record = read_record(out)
    assert {(item.workload, item.case, item.system) for item in record.items} == {
        ("mine", row.id, system) for row in ROWS for system in systems[1:]
    }
    assert {item.case: item.answered is None for item in record.items} == {"asked": False, "not asked": True}
    assert record.about["settings"]["threads"] == 1
    assert str(out) in capsys.readouterr().out
    assert _run(monkeypatch, report, str(out), "--docs", str(tmp_path / "docs")) == 0
    assert "## Mine" in (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "nonsense"], "unknown: nonsense; choose of paraphrase"),
        (["--systems", "theirs"], "unknown: theirs; choose of full prefill"),
        (["--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_what_is_not_known_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit):
        _run(monkeypatch, bench, *arguments)
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", '{"id": "a"}', "no json"])
def test_damaged_rows_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    rows = tmp_path / "rows.jsonl"
    if content is not None:
        rows.write_text(content)
    assert _run(monkeypatch, bench, "--rows", str(rows)) == 2
    assert f"{rows} has no rows to measure" in capsys.readouterr().err


def test_the_help_names_workloads_and_systems(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _run(monkeypatch, bench, "--help")
    told = capsys.readouterr().out
    for name in ("many sources", "peers", "ours balanced", "kvpress", "--rows"):
        assert name in told


def test_a_report_of_another_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    for content in (None, "{", "[]", json.dumps({"items": []})):
        if content is not None:
            path.write_text(content)
        assert _run(monkeypatch, report, str(path), "--docs", str(tmp_path / "docs")) == 2
        assert "is not what benchmarks.bench writes" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
