"""Download one package file with the registry's own client: apt-get, pip, npm. Nothing is installed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.corpora.errors import CorpusUnavailable

TIMEOUT_SECONDS = 300


def apt_download(package: str, version: str, into: Path) -> Path:
    """Download a Debian package; with the machine's package lists, or else with fresh ones of our own."""
    _require("apt-get")
    wanted = f"{package}={version}"
    first = _run(["apt-get", *_sandbox(), "download", wanted], into)
    if first.returncode != 0:
        options = _own_package_lists()
        second = _run(["apt-get", *_sandbox(), *options, "download", wanted], into)
        if second.returncode != 0:
            raise CorpusUnavailable(_apt_reason(package, version, second, options))
    return _only_file(into, f"apt-get download {wanted}")


def pip_download(package: str, version: str, into: Path) -> Path:
    """Download a wheel or source archive from the Python package index that pip is set up with."""
    wanted = f"{package}=={version}"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "-d", ".", wanted]
    _check(_run(command, into), f"pip download {wanted}")
    return _only_file(into, f"pip download {wanted}")


def npm_download(package: str, version: str, into: Path) -> Path:
    """Download the tarball of an npm package."""
    _require("npm")
    wanted = f"{package}@{version}"
    _check(_run(["npm", "pack", wanted], into), f"npm pack {wanted}")
    return _only_file(into, f"npm pack {wanted}")


@functools.cache
def _own_package_lists() -> list[str]:
    """Options that point apt at package lists of our own, updated once per process.

    The machine's lists may be missing or old, and updating those takes root; a private folder does not.
    """
    folder = TemporaryDirectory(prefix="semshare-apt-")
    _KEEP_ALIVE.append(folder)
    root = Path(folder.name)
    (root / "lists" / "partial").mkdir(parents=True)
    (root / "archives" / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={root / 'lists'}", "-o", f"Dir::Cache={root}"]
    _check(_run(["apt-get", *_sandbox(), *options, "update"], root), "apt-get update")
    return options


_KEEP_ALIVE: list[TemporaryDirectory[str]] = []
"""Folders that must live as long as the process."""


def _sandbox() -> list[str]:
    """As root, apt drops to a user that cannot enter a private cache folder; otherwise there is nothing to drop."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return ["-o", "APT::Sandbox::User=root"] if is_root else []


def _apt_reason(package: str, version: str, failed: subprocess.CompletedProcess[str], options: list[str]) -> str:
    """Tell a package that has moved on from one that is not there."""
    policy = _run(["apt-cache", *options, "policy", package], Path.cwd()).stdout
    offered = next((line.split(":", 1)[1].strip() for line in policy.splitlines() if "Candidate:" in line), "(none)")
    if offered in ("(none)", version):
        return f"apt-get download {package}={version} failed: {_last_line(failed)}"
    return f"Debian package {package}: version {version} is pinned, but this machine's Debian offers {offered}"


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise CorpusUnavailable(f"{program} is not installed on this machine")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},  # messages are parsed
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CorpusUnavailable(f"{' '.join(command)}: no answer within {TIMEOUT_SECONDS} s") from error
    except OSError as error:
        raise CorpusUnavailable(f"{command[0]} cannot be run: {error}") from error


def _check(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode != 0:
        raise CorpusUnavailable(f"{what} failed: {_last_line(done)}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "ERROR", "npm ERR!", "npm error"))]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def _only_file(folder: Path, what: str) -> Path:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        raise CorpusUnavailable(f"{what} left {len(files)} files instead of one")
    return files[0]
