"""The script for accelerators: it runs on a CPU with tiny sizes, and no part takes another one's figures with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.__main__ import run_part
from benchmarks.gpu.part import Options, Record

ROOT = Path(__file__).parents[2]


def script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu", "--out", "found", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_part_leaves_its_figures(tmp_path: Path) -> None:
    done = script(tmp_path, "--parts", "card", "lookup", "tiers")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {part: read(tmp_path / "found" / f"{part}.json") for part in ("card", "lookup", "tiers")}
    assert all(part["complete"] and part["tiny"] and part["device"] == "cpu" for part in parts.values())
    assert parts["card"]["figures"]["one launch"]["count"] == 50
    assert all(f"CPU, {size} entries, query on the host" in parts["lookup"]["figures"] for size in (100, 1000, 9000))
    laid = {name: figure for name, figure in parts["tiers"]["figures"].items() if name.startswith("laying, ")}
    assert len(laid) == 4
    assert all(figure["same_rows"] == "the same rows" for figure in laid.values())
    run = read(tmp_path / "found" / "run.json")
    assert [(part["part"], part["outcome"]) for part in run["parts"]] == [
        ("card", "ok"),
        ("lookup", "ok"),
        ("tiers", "ok"),
    ]
    assert "one launch: " in done.stdout


@pytest.mark.slow
def test_ttft_and_the_matrix_run_where_there_is_no_card(tmp_path: Path) -> None:
    done = script(tmp_path, "--parts", "ttft", "matrix")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = read(tmp_path / "found" / "ttft.json")["figures"]
    for name in ("300 tokens, ratio 0.1", "a prefix of 200 and 60 tokens", "a miss of 300 tokens"):
        assert len(figures[name]["ttft_ms"]) == 5
    counts = read(tmp_path / "found" / "matrix.json")
    assert {name: count["total"]["failed"] for name, count in counts.items()} == {
        "float32 on cpu": 0,
        "bfloat16 on cpu": 0,
    }
    assert all(count["total"]["passed"] > 10 for count in counts.values())


@pytest.mark.slow
def test_a_part_that_fails_is_told_and_loses_nothing_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "found" / "card.json").mkdir(parents=True)  # where its figures should go
    done = script(tmp_path, "--parts", "card", "lookup")
    assert done.returncode == 1
    assert read(tmp_path / "found" / "lookup.json")["complete"]
    verdicts = done.stdout.split("== verdicts\n")[1].splitlines()
    assert verdicts[0].startswith("card: failed (1) after ")
    assert "Error" in verdicts[0]
    assert verdicts[1].startswith("lookup: ok after ")


def test_a_part_that_hangs_is_stopped_with_all_that_it_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = tmp_path / "late"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(late)!r}).touch()"
    program = (
        "import subprocess, sys, time\nprint('begun', flush=True)\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    )
    verdict = run_part("hangs", [sys.executable, "-c", program], 0.7)
    assert verdict.outcome == "timed out"
    assert not verdict.ok
    assert "begun" in capsys.readouterr().out
    time.sleep(2.5)
    assert not late.exists()


def test_a_step_that_fails_leaves_the_others_their_figures(tmp_path: Path) -> None:
    def fails(record: Record) -> None:
        raise ValueError("too warm")

    record = Record("made up", Options(torch.device("cpu"), True, tmp_path / "made-up.json"))
    record.attempt("first", fails)
    record.attempt("second", lambda record, ms: record.add("a figure", f"{ms} ms", ms=ms), 3)
    with pytest.raises(RuntimeError, match="first: ValueError: too warm"):
        record.finish()
    found = read(tmp_path / "made-up.json")
    assert found["figures"] == {"a figure": {"told": "3 ms", "ms": 3}}
    assert found["failed"] == {"first": "ValueError: too warm"}
    assert not found["complete"]


def test_the_last_line_of_a_failure_is_its_verdict() -> None:
    verdict = run_part("raises", [sys.executable, "-c", "raise ValueError('too warm')"], 60)
    assert str(verdict).startswith("raises: failed (1) after ")
    assert str(verdict).endswith(": ValueError: too warm")
    assert run_part("ends", [sys.executable, "-c", "print('well')"], 60).ok
