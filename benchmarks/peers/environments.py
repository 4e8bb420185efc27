"""A virtual environment for each peer, under the cache folder; the project's own is never touched.

Every version is pinned in `requirements/NAME.txt`, which lists all that a peer needs, so that nothing is resolved anew.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from benchmarks.peers.errors import PeerUnavailable
from semshare_core.process.paths import cache_dir

REQUIREMENTS = Path(__file__).with_name("requirements")
_STAMP = "semshare-complete"
_REFUSED = "semshare-refused"
_TOLD_LINES = 4


@dataclass(frozen=True)
class Environment:
    """Where a peer lives.

    Attributes:
        name: of the peer; also of its requirements file.
        build_variables: of the process that installs, for what is built from source.
        timeout_seconds: an installation that takes longer is given up.
    """

    name: str
    build_variables: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float = 1500
    requirements: Path | None = None

    @property
    def folder(self) -> Path:
        return cache_dir() / "peers" / self.name

    @property
    def python(self) -> Path:
        """Its interpreter. Raises `PeerUnavailable`, with the reason of an earlier failure or how to install it."""
        if not self._is_complete():
            raise PeerUnavailable(
                _read(self.folder / _REFUSED) or f"not installed; run: python -m benchmarks.peers install {self.name}"
            )
        return self._interpreter

    def install(self) -> None:
        """Make the environment, or leave it as it is where it is complete. Raises `PeerUnavailable` with the reason.

        An environment that failed, or was made from other requirements, is made anew from nothing.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.folder}.lock"):
                if not self._is_complete():
                    self._make()
        except OSError as error:
            raise PeerUnavailable(f"{self.name}: {self.folder} cannot be written: {error}") from error

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            # pip of the running interpreter fills it: Debian's bare Python could not bring one along (no ensurepip).
            self._run([sys.executable, "-m", "venv", "--without-pip", str(self.folder)])
            self._run(
                [
                    *("nice", "-n", "10", sys.executable, "-m", "pip", "--python", str(self._interpreter)),
                    *("install", "--disable-pip-version-check", "--no-input", "--no-deps", "-r", str(self._list)),
                ]
            )
        except PeerUnavailable as error:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _REFUSED).write_text(str(error), encoding="utf-8")
            raise
        (self.folder / _STAMP).write_text(self._recipe(), encoding="utf-8")  # last: what is broken off is not complete

    def _run(self, command: list[str]) -> None:
        log = self.folder.with_suffix(".log")
        environment = {**os.environ, **self.build_variables}
        environment.pop("PYTHONPATH", None)
        with log.open("wb") as output:
            try:
                code = subprocess.run(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=self.timeout_seconds,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise PeerUnavailable(f"{self.name}: not installed within {self.timeout_seconds:g} s") from error
        if code:
            raise PeerUnavailable(f"{self.name}: the installation failed: {_reason(log)}")

    def _is_complete(self) -> bool:
        return _read(self.folder / _STAMP) == self._recipe() and self._interpreter.exists()

    def _recipe(self) -> str:
        """Names all that the environment is made from."""
        machine = (platform.python_version(), platform.machine())
        made_from = (self._list.read_text(encoding="utf-8"), sorted(self.build_variables.items()), machine)
        return hashlib.sha256(repr(made_from).encode()).hexdigest()

    @property
    def _interpreter(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def _list(self) -> Path:
        return self.requirements or REQUIREMENTS / f"{self.name}.txt"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _reason(log: Path) -> str:
    """What pip calls an error, else its last words."""
    lines = [line.strip() for line in _read(log).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return " | ".join((errors or lines or ["it said nothing"])[-_TOLD_LINES:])
