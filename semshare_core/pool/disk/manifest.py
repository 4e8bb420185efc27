"""The two small JSON files that say what a folder is: ``pool.json`` of a model, ``namespace.json`` of a namespace."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field
from xxhash import xxh3_64_hexdigest

from semshare_core.pool.disk.atomic import cannot, write_whole
from semshare_core.pool.disk.checked_file import FORMAT, damaged, parse, regular_size

_MOST_BYTES = 2**20  # no manifest is nearly as large


class Manifest(BaseModel):
    """``check`` is the checksum of the others, so that no flipped bit turns one tenant's name into another's."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    format: int = FORMAT
    check: str = ""

    def sealed(self) -> bytes:
        """Its JSON, with the checksum filled in."""
        return self.model_copy(update={"check": self._sum()}).model_dump_json(indent=1).encode()

    def _sum(self) -> str:
        return xxh3_64_hexdigest(self.model_dump_json(exclude={"check"}).encode())

    @property
    def whole(self) -> bool:
        return self.check == self._sum()


class PoolManifest(Manifest):
    """``pool.json``: which model, tokenizer and dtype a folder is for (:attr:`Fingerprint.description`)."""

    fingerprint: dict[str, str]


class NamespaceManifest(Manifest):
    """``namespace.json``: whose folder it is, and the salt of its file names, 32 random bytes in hex."""

    namespace: str
    salt: str = Field(default_factory=lambda: secrets.token_hex(32), pattern="^[0-9a-f]{64}$")


M = TypeVar("M", bound=Manifest)


def read_manifest(kind: type[M], path: Path) -> M:
    """Read a manifest.

    Raises:
        DamagedFileError: it is missing or not what was written.
        NewerFileError: it was written by a later version.
        PoolFileError: the system cannot read it.
    """
    if regular_size(path) > _MOST_BYTES:
        raise damaged(path, "it is far too large")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from error
    manifest = parse(kind, content, path)
    if not manifest.whole:
        raise damaged(path, "its content does not match its checksum")
    return manifest


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest whole or not at all; raises :class:`PoolFileError`."""
    write_whole(path, manifest.sealed())
