"""A peer: asked in a process of its own, many items at once."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.errors import PeerFailed
from benchmarks.peers.item import PeerItem, PeerResult
from benchmarks.peers.protocol import ANSWERS_FILE, WORK_FILE, read_answers, write_work

LOG_FILE = "worker.log"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_TOLD_LINES = 3


@dataclass(frozen=True)
class Peer:
    """Another project.

    Attributes:
        name: as in tables.
        settings: what it is measured under; each worker's docstring says which it knows.
        worker: the script that asks it.
        python: finds the interpreter of its environment; raises `PeerUnavailable`.
        model: finds the model's folder or file.
        timeout_seconds: a worker that takes longer is ended; what it had answered by then counts.
    """

    name: str
    settings: tuple[str, ...]
    worker: Path
    python: Callable[[], Path]
    model: Callable[[], Path]
    timeout_seconds: float = 1800

    def run(self, cases: Sequence[PeerItem], threads: int) -> list[PeerResult]:
        """Every case under every setting, in this order; a case that failed has an error for a sample.

        Raises:
            PeerUnavailable: the peer is not installed; the message says why, or how to install it.
            PeerFailed: not one answer is usable.
            ValueError: there is nothing to ask.
        """
        python = self.python()
        folder = tempfile.TemporaryDirectory(prefix="semshare-peer-", ignore_cleanup_errors=True)
        place = Path(folder.name)
        write_work(place, cases, self.settings)
        ended = self._work(python, place, threads)
        results = read_answers(folder, cases, self.settings, f"no answer: {ended}")
        if all(result.sample is None for result in results):
            raise PeerFailed(f"{self.name}: not one of {len(results)} answers is usable; the first: {results[0].error}")
        return results

    def _work(self, python: Path, place: Path, threads: int) -> str:
        """Run the worker; says how it ended."""
        command = [
            *(str(python), str(self.worker), "--model", str(self.model()), "--threads", str(threads)),
            *("--work", str(place / WORK_FILE), "--answers", str(place / ANSWERS_FILE)),
        ]
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads)), "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)  # a peer must not see the project's packages
        log = place / LOG_FILE
        with log.open("wb") as output:
            try:
                done = subprocess.run(
                    command,
                    cwd=place,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout_seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return f"the worker was ended after {self.timeout_seconds:g} s; {_tail(log)}"
        return f"the worker ended with exit code {done.returncode}; {_tail(log)}"


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"its last words: {' | '.join(lines[-_TOLD_LINES:])}" if lines else "it said nothing"
