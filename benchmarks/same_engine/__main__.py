"""Whether the working tree's engine plans, decides, computes and answers as that of an older commit does.

Both run the scenarios of ``cases.py`` in processes of their own and in this Python environment. Plans, rows computed,
decisions and reports must be equal, logits within 1e-5. Prints what differs, case by case; exits with 1 if anything
does. The older commit's record is made once and kept in out/same_engine.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.same_engine.cases import SCENARIOS
from benchmarks.same_engine.compare import differences
from benchmarks.same_engine.record import Record

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "out" / "same_engine"


def main() -> int:
    """The command."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_engine", description=__doc__)
    parser.add_argument("ref", nargs="?", default="HEAD", help="the older commit (default: the last one, HEAD)")
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="SCENARIO", help=", ".join(names))
    options = parser.parse_args()
    started = time.perf_counter()
    KEPT.mkdir(parents=True, exist_ok=True)
    commit = _git("rev-parse", "--verify", f"{options.ref}^{{commit}}").decode().strip()
    old = KEPT / f"{commit[:12]}-{_of_the_cases(options.only)}"
    new = KEPT / "now"
    with tempfile.TemporaryDirectory() as folder:
        running = [_recorder(ROOT, new, options.only)]
        if not Path(f"{old}.json").exists():
            with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "semshare_core"))) as archive:
                archive.extractall(folder, filter="data")
            running.append(_recorder(Path(folder), old, options.only))
        codes = [process.wait() for process in running]
        if any(codes):
            print("a record could not be made; see above.", file=sys.stderr)
            return 2
    before = Record.load(old)
    found = differences(before, Record.load(new))
    for case, told in _off_target(before).items():
        found[case].append(told)
    return _tell(found, options.ref, time.perf_counter() - started)


def _off_target(old: Record) -> dict[str, str]:
    """Cases that do not show what they are there for."""
    told = {}
    for scenario in SCENARIOS:
        for ask in scenario.asks:
            case = f"{scenario.name} / {ask.name}"
            if case in old.values and old.values[case].get("report: outcome") != ask.outcome:
                got = [old.values[case].get(name) for name in ("error", "report: outcome", "report: reason")]
                told[case] = f"this is there for {ask.outcome!r}, and the old engine's outcome is {got}"
    return told


def _git(*command: str) -> bytes:
    return subprocess.run(["git", *command], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout


def _of_the_cases(only: list[str]) -> str:
    """Names what is asked and how it is looked at: all files of this package."""
    digest = hashlib.blake2b(repr(only).encode(), digest_size=6)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _recorder(engine: Path, out: Path, only: list[str]) -> subprocess.Popen[bytes]:
    """A process with the ``semshare_core`` of the folder ``engine`` and the ``benchmarks`` of the working tree."""
    for suffix in (".json", ".npz"):
        Path(f"{out}{suffix}").unlink(missing_ok=True)
    settings = {
        "PYTHONPATH": str(ROOT),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "benchmarks.same_engine.record", str(engine), str(out), *only]
    return subprocess.Popen(command, cwd=engine, env=os.environ | settings)


def _tell(found: dict[str, list[str]], ref: str, seconds: float) -> int:
    wide = max(map(len, found))
    for case, told in found.items():
        print(f"{case:{wide}}  {'the same' if not told else f'{len(told)} differ'}")
        for line in told:
            print(f"    {line}")
    changed = sum(map(bool, found.values()))
    print(f"\n{len(found)} prompts against {ref} in {seconds:.0f} s: ", end="")
    print("all the same." if not changed else f"{changed} differ.")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
