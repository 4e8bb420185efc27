"""The tests of the architectures and the invariants with the tiny models on a device, in float32 and bfloat16.

``python -m benchmarks.gpu.matrix [--device cuda] [--processes 8]`` needs pytest, and of its plugins none: with
pytest-xdist there are several processes. It prints figures first, then failures, then what was skipped and why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float32", "bfloat16")
TESTS = (
    "tests/model/test_architectures.py",
    "tests/engine/test_engine.py",
    "tests/engine/test_namespaces.py",
    "tests/engine/test_recomputed_rows.py",
    "tests/prefill",
    "tests/pool/test_pool_engine.py",
    "tests/pool/test_pool_tiers.py",
    "tests/engine/test_error_falls.py",
    "tests/engine/test_bit_identity.py",
    "tests/engine/test_chains.py",
    "tests/compress",
    "tests/select",
)
TINY_TESTS = ("tests/engine/test_namespaces.py",)
NEEDS = {"tests/pool/test_pool_tiers.py": "hypothesis", "tests/prefill/test_query_blocks.py": "hypothesis"}
"""Files that cannot be read without a package that a machine may lack. They are told as left out."""

PROCESSES = 8
SECONDS = 200
_TO_REPORT = 20  # seconds that pytest has to tell what it has done
_PRINTED = 3900  # characters, of all
_OUTCOMES = ("passed", "failed", "skipped")


def commands(device: str, processes: int = PROCESSES, tests: Sequence[str] = TESTS) -> list[tuple[str, list[str]]]:
    """A name, ``dtype on device``, and the command of each run. :func:`environment` makes the rest of it."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-m", "not real"]
    command += ["-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), "-o", "addopts=-rs"]
    command += ["-W", "ignore::pytest.PytestConfigWarning"]  # settings of plugins that are not there
    command += [f"--ignore={ROOT / file}" for file in left_out()]
    if processes > 1 and find_spec("xdist") is not None:
        command += ["-n", str(processes)]
    there = [test for test in tests if test not in left_out()]
    return [(f"{dtype} on {device}", [*command, *there]) for dtype in DTYPES]


def left_out() -> list[str]:
    """Files that this machine cannot run."""
    return [file for file, package in NEEDS.items() if find_spec(package) is None]


def environment(device: str, dtype: str) -> dict[str, str]:
    """What the tests read, beside the settings that are there."""
    paths = [str(ROOT), str(ROOT / "tests" / "support"), *filter(None, [os.environ.get("PYTHONPATH")])]
    tests = {"SEMSHARE_TEST_DEVICE": device, "SEMSHARE_TEST_DTYPE": dtype}
    return {**os.environ, **tests, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def run(
    device: str, processes: int = PROCESSES, seconds: float = SECONDS, tests: Sequence[str] = TESTS
) -> dict[str, dict[str, Any]]:
    """Counts of all runs, for JSON; each run is ended after so many ``seconds``. An accelerator does both together."""
    runs = commands(device, processes, tests)
    with ThreadPoolExecutor(len(runs) if device != "cpu" else 1) as together:
        counted = [
            together.submit(_counted, command, environment(device, name.split()[0]), seconds) for name, command in runs
        ]
        return {name: each.result() for (name, _), each in zip(runs, counted, strict=True)}


def _counted(command: list[str], settings: dict[str, str], seconds: float) -> dict[str, Any]:
    """One run. If its time is up it is interrupted, and what it has done until then is counted."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report, told = Path(folder) / "report.xml", Path(folder) / "told.txt"
        with told.open("w") as output:
            process = subprocess.Popen(
                [*command, "-vv", f"--junitxml={report}"],
                cwd=ROOT,
                env=settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = _ended(process, seconds)
        took = round(time.perf_counter() - started, 1)
        text = told.read_text(errors="replace")
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    found = _sorted(cases) if cases else _seen(text)
    return {"code": code, "seconds": took, "told": text[-600:] if code not in (0, 1) else "", **found}


def _ended(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit status; -1 if it had to be interrupted."""
    for limit, signal_ in ((seconds, signal.SIGINT), (_TO_REPORT, signal.SIGKILL)):
        try:
            code = process.wait(limit)
            return code if signal_ is signal.SIGINT else -1
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal_)
    process.wait()
    return -1


def _seen(text: str) -> dict[str, Any]:
    """Counts of what a run said before it was killed."""
    files: dict[str, Counter[str]] = {}
    failures = []
    for outcome, test in re.findall(r"(PASSED|FAILED|SKIPPED|ERROR) (tests/[^ \n]+)", text):
        file, _, name = test.partition("::")
        kind = {"PASSED": "passed", "SKIPPED": "skipped"}.get(outcome, "failed")
        files.setdefault(Path(file).stem, Counter())[kind] += 1
        if kind == "failed":
            failures.append((f"{Path(file).stem}::{name}", outcome))
    return _told(files, failures, Counter())


def _sorted(cases: Iterable[ElementTree.Element]) -> dict[str, Any]:
    files: dict[str, Counter[str]] = {}
    failures: list[tuple[str, str]] = []
    reasons: Counter[str] = Counter()
    for case in cases:
        file = case.get("classname", "").rpartition(".")[2]
        outcome, wrong, skip = "passed", [*case.findall("failure"), *case.findall("error")], case.find("skipped")
        if wrong:
            outcome = "failed"
            failures.append((f"{file}::{case.get('name')}", _last_line(wrong[0])))
        elif skip is not None:
            outcome = "skipped"
            reasons[skip.get("message", "")] += 1
        files.setdefault(file, Counter())[outcome] += 1
    return _told(files, failures, reasons)


def _told(files: dict[str, Counter[str]], failures: list[tuple[str, str]], reasons: Counter[str]) -> dict[str, Any]:
    total: Counter[str] = sum(files.values(), Counter())
    return {
        "total": {outcome: total[outcome] for outcome in _OUTCOMES},
        "files": {file: {outcome: count[outcome] for outcome in _OUTCOMES} for file, count in sorted(files.items())},
        "failures": failures,
        "skipped": dict(reasons.most_common()),
    }


def _last_line(wrong: ElementTree.Element) -> str:
    """The message's first line, or the last that pytest marks as the error."""
    marked = [line[1:].strip() for line in (wrong.text or "").splitlines() if line.startswith("E ")]
    return " ".join((wrong.get("message") or (marked or [""])[-1]).split())


def shown(counts: dict[str, dict[str, Any]], limit: int = _PRINTED) -> str:
    """Figures, failures, reasons, in this order and in so many characters."""
    lines = []
    for name, found in counts.items():
        total = found["total"]
        figures = ", ".join(f"{total[outcome]} {outcome}" for outcome in _OUTCOMES)
        lines.append(f"{name}: {figures} in {found['seconds']} s (exit {found['code']}) {found['told']}".rstrip())
    every = sorted({file for found in counts.values() for file in found["files"]})
    lines.append(f"passed/failed/skipped of {' | '.join(counts)}")
    for file in every:
        counted = [found["files"].get(file, {}) for found in counts.values()]
        cells = ["/".join(str(each.get(outcome, 0)) for outcome in _OUTCOMES) for each in counted]
        lines.append(f"  {file}: {' | '.join(cells)}")
    reasons = [f"left out, for there is no {NEEDS[file]}: {file}" for file in left_out()]
    for found in counts.values():
        reasons += [f"skipped {count}: {reason[:130]}" for reason, count in found["skipped"].items()]
    failures = [
        f"FAILED {name.split()[0]} {test[:110]}: {why[:120]}"
        for name, found in counts.items()
        for test, why in found["failures"]
    ]
    room = limit - sum(len(line) + 1 for line in [*lines, *reasons]) - 40
    kept = 0
    while kept < len(failures) and room >= len(failures[kept]) + 1:
        room -= len(failures[kept]) + 1
        kept += 1
    more = [f"... and {len(failures) - kept} failures more"] if kept < len(failures) else []
    return "\n".join([*lines, *failures[:kept], *more, *reasons])[:limit]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="the longest that one of the two runs may take")
    parser.add_argument("--tiny", action="store_true", help="try it out: one file of tests")
    parser.add_argument("--out", type=Path, help="all counts as JSON")
    options = parser.parse_args()
    tests = TINY_TESTS if options.tiny else TESTS
    counts = run(options.device, options.processes, options.seconds, tests)
    print(shown(counts))
    if options.out is not None:
        options.out.write_text(json.dumps(counts, indent=1) + "\n")
    return int(any(found["code"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
