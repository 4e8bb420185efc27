"""What SemShare costs on an accelerator, in one command: every part in a process of its own.

A part that fails or hangs loses nothing of the others. Each has its share of the minutes; what it leaves goes to the
parts behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from semshare_core.process.whole_file import written_whole

SHARES = {"card": 1.0, "ttft": 4.0, "matrix": 3.0, "lookup": 1.5, "tiers": 1.5}
"""The parts in their order, and how the minutes are divided among those that run."""

_MINUTES = 8.0
_SECONDS_TO_TELL = 30.0
_SECONDS_TO_END = 5.0  # for a part's last output after it has ended or was stopped
_PACKAGES = ("torch", "transformers", "numpy", "faiss-cpu", "faiss-gpu")
_CARD = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")


@dataclass(frozen=True)
class Verdict:
    """How a part ended."""

    part: str
    outcome: str
    seconds: float
    last_line: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    def __str__(self) -> str:
        told = f"{self.part}: {self.outcome} after {self.seconds:.0f} s"
        return told if self.ok or not self.last_line else f"{told}: {self.last_line}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if any of them did not end well."""
    chosen = _options(argv)
    chosen.out.mkdir(parents=True, exist_ok=True)
    header = _header(chosen.commit)
    for name, told in header.items():
        print(f"{name}: {told}", flush=True)
    end = time.monotonic() + 60 * chosen.minutes
    verdicts: list[Verdict] = []
    for number, part in enumerate(chosen.parts):
        shares = [SHARES[each] for each in chosen.parts[number:]]
        limit = max(0.0, end - time.monotonic()) * shares[0] / sum(shares)
        print(f"\n== {part}, at most {limit:.0f} s", flush=True)
        verdicts.append(run_part(part, _command(part, chosen, limit), limit))
        print(verdicts[-1], flush=True)
        _write(chosen.out / "run.json", header, verdicts)
    print("\n== verdicts", *verdicts, sep="\n", flush=True)
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def run_part(part: str, command: Sequence[str], limit: float) -> Verdict:
    """Run ``command`` for at most ``limit`` seconds, and print what it prints as it comes."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that what it starts can be ended with it
    )
    assert process.stdout is not None
    last: list[str] = [""]
    reader = threading.Thread(target=_pass_on, args=(process.stdout, last), daemon=True)
    reader.start()
    try:
        code = process.wait(limit)
        outcome = "ok" if code == 0 else f"failed ({code})"
    except subprocess.TimeoutExpired:
        outcome = "timed out"
    finally:
        _end(process)
        reader.join(_SECONDS_TO_END)
    return Verdict(part, outcome, time.monotonic() - began, last[0])


def _pass_on(output: IO[str], last: list[str]) -> None:
    for line in output:
        print(line, end="", flush=True)
        if line.strip():
            last[0] = line.strip()


def _end(process: subprocess.Popen[str]) -> None:
    """End the process, if it still runs, and all that it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):  # nothing is left of them
        pass
    process.wait()


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), help="default: all, in this order")
    parser.add_argument("--tiny", action="store_true", help="try it out: tiny sizes, no real figures")
    parser.add_argument("--device", default="cuda", help="of the models (default: cuda)")
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"of all parts together (default: {_MINUTES})")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder for a file of each part")
    parser.add_argument("--commit", default="", help="to be told in the header, where the code lies in no clone")
    chosen = parser.parse_args(argv)
    if not chosen.minutes > 0:
        parser.error("--minutes must be more than 0")
    return chosen


def _command(part: str, chosen: argparse.Namespace, limit: float) -> list[str]:
    """A part's command; the tests need a while to tell what they have done when their time is up."""
    seconds = ["--seconds", f"{max(_SECONDS_TO_TELL, limit - _SECONDS_TO_TELL):.0f}"] if part == "matrix" else []
    tiny = ["--tiny"] if chosen.tiny else []
    out = str(chosen.out / f"{part}.json")
    return [sys.executable, "-m", f"benchmarks.gpu.{part}", "--device", chosen.device, *tiny, *seconds, "--out", out]


def _header(commit: str) -> dict[str, str]:
    """What figures depend on, found without a library that could fail."""
    return {
        "card": _told_by(_CARD) or "none that nvidia-smi knows",
        "versions": ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name))),
        "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit or _told_by(("git", "rev-parse", "HEAD")) or "not known",
        "command": shlex.join(sys.argv),
    }


def _told_by(command: Sequence[str]) -> str:
    """The first line that a program prints; empty if there is no such program or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write(path: Path, header: dict[str, str], verdicts: list[Verdict]) -> None:
    document = {**header, "parts": [asdict(verdict) for verdict in verdicts]}
    with written_whole(path) as file:
        file.write(json.dumps(document, indent=1).encode())


if __name__ == "__main__":
    sys.exit(main())
