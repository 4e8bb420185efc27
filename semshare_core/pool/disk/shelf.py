"""One namespace's folder. Its name is random and its files' names are keyed hashes: neither gives anything away.

Whoever sees the names of two namespaces' files cannot tell whether they hold the same text: the key (salt) of the
hashes, BLAKE2b, is the namespace's own.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from semshare_core.errors import PoolFileError
from semshare_core.pool.disk.atomic import PART, cannot, make_folder, remove, sync_folder, write_whole
from semshare_core.pool.disk.checked_file import damaged
from semshare_core.pool.disk.manifest import NamespaceManifest, read_manifest, write_manifest
from semshare_core.pool.disk.record import Record, read_record
from semshare_core.pool.disk.skipped import Skipped
from semshare_core.pool.disk.stored_rows import StoredRows

MANIFEST = "namespace.json"
MANIFESTS = (MANIFEST, "pool.json")
FOLDER_NAME = re.compile(r"^[0-9a-f]{32}$")
_ENTRY, _ROWS = ".entry", ".rows"
_OURS = re.compile(r"^[0-9a-f]{32}\.(entry|rows)$")


@dataclass(frozen=True)
class Found:
    """What a look through the records brought: those that can be used, and the files that cannot."""

    records: list[Record]
    skipped: list[Skipped]


class Shelf:
    """The files of one namespace of one model. ``sizes`` has the bytes of each by its name.

    Args:
        folder: it exists, with its manifest.
        fingerprint: digest of the model's.

    Raises:
        PoolFileError: the manifest cannot be used.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        manifest = read_manifest(NamespaceManifest, folder / MANIFEST)
        self.folder = folder
        self.namespace = manifest.namespace
        self._salt = bytes.fromhex(manifest.salt)
        self._fingerprint = fingerprint
        self.sizes = {name: size for name, size in sizes_in(folder).items() if _OURS.match(name)}
        self.n_bytes = sum(self.sizes.values())

    @classmethod
    def make(cls, home: Path, namespace: str, fingerprint: str) -> Shelf:
        """Make a namespace's folder in ``home``: under a temporary name until its manifest is written."""
        name = secrets.token_hex(16)
        part = home / f"{name}.{secrets.token_hex(8)}.part"
        make_folder(part)
        write_manifest(part / MANIFEST, NamespaceManifest(namespace=namespace))
        try:
            part.rename(home / name)
            sync_folder(home)
        except OSError as error:
            raise cannot("make", home / name, error) from error
        return cls(home / name, fingerprint)

    def rows_path(self, segment: str) -> Path:
        return self.folder / self._name(segment, _ROWS)

    def entry_path(self, entry: str) -> Path:
        return self.folder / self._name(entry, _ENTRY)

    def write(self, path: Path, data: bytes) -> None:
        write_whole(path, data)
        self.n_bytes += len(data) - self.sizes.get(path.name, 0)
        self.sizes[path.name] = len(data)

    def remove(self, path: Path) -> None:
        remove(path)
        self.n_bytes -= self.sizes.pop(path.name, 0)

    def rows(self, path: Path) -> StoredRows:
        """Open a segment's file.

        Raises:
            PoolFileError: it cannot be used.
        """
        rows = StoredRows(path, self._fingerprint)
        if self.rows_path(rows.id) != path:
            raise damaged(path, "it is another segment's file")
        return rows

    def record(self, path: Path) -> Record:
        """Read an entry's file, whose rows must be there.

        Raises:
            PoolFileError: it cannot be used.
        """
        record = read_record(path, self.namespace, self._fingerprint)
        if self.entry_path(record.id) != path:
            raise damaged(path, "it is another entry's file")
        missing = [name for name, _ in record.segments if self._name(name, _ROWS) not in self.sizes]
        if missing:
            raise damaged(path, f"the rows of {len(missing)} of its {len(record.segments)} segments are missing")
        return record

    def look(self) -> Found:
        """Read all records. One that its owner deletes meanwhile is not missed."""
        found = Found([], [])
        for name in sorted(name for name in self.sizes if name.endswith(_ENTRY)):
            path = self.folder / name
            try:
                found.records.append(self.record(path))
            except PoolFileError as error:
                if os.path.lexists(path):
                    found.skipped.append(Skipped.of(path, error))
        return found

    def clean(self, found: Found) -> None:
        """Delete what a writer that was killed left: temporary files, and rows that no record names.

        Rows stay while a record cannot be read: it may name them.
        """
        remove_parts(self.folder)
        if not found.skipped:
            named = {self._name(segment, _ROWS) for record in found.records for segment, _ in record.segments}
            for name in [name for name in self.sizes if name.endswith(_ROWS) and name not in named]:
                if is_regular(self.folder / name):
                    self.remove(self.folder / name)

    def verify(self) -> Iterator[Skipped]:
        """Read every byte of every record and row; yields the files that are not what was written."""
        found = self.look()
        yield from found.skipped
        wanted = {self._name(name, _ROWS): count for record in found.records for name, count in record.segments}
        for name in sorted(name for name in self.sizes if name.endswith(_ROWS)):
            path = self.folder / name
            try:
                rows = self.rows(path)
                for layer in range(rows.n_layers):
                    rows.layer(layer)
                if rows.n_tokens != wanted.get(name, rows.n_tokens):
                    raise damaged(path, f"it has {rows.n_tokens} rows, and a record says {wanted[name]}")
            except PoolFileError as error:
                if os.path.lexists(path):
                    yield Skipped.of(path, error)

    def mend(self) -> None:
        """Delete damaged files, then the records that lack rows, then the rows that no record names."""
        for damage in (self.verify, lambda: self.look().skipped):
            for item in list(damage()):
                if item.kind == "damaged" and not is_folder(item.path):
                    self.remove(item.path)
        self.clean(self.look())

    def drop_if_empty(self) -> bool:
        """Delete the folder, and the namespace's name with it, if it has neither files of ours nor of others."""
        if self.sizes or set(sizes_in(self.folder)) - {MANIFEST}:
            return False
        drop_folder(self.folder)
        return True

    def _name(self, text: str, suffix: str) -> str:
        hashed = blake2b(text.encode(), digest_size=16, key=self._salt, person=suffix.encode())
        return hashed.hexdigest() + suffix


def drop_folder(folder: Path) -> None:
    """Delete a namespace's folder that has a manifest and temporary files at most; one with other files stays.

    Raises:
        PoolFileError: the system does not let us.
    """
    remove_parts(folder)
    remove(folder / MANIFEST)
    with suppress(OSError):  # someone else's file is in it
        folder.rmdir()


def empty_folder(folder: Path) -> None:
    """Delete a namespace's folder with all files of ours in it; one with other files stays."""
    for name in sizes_in(folder):
        if _OURS.match(name) and not is_folder(folder / name):
            remove(folder / name)
    drop_folder(folder)


def remove_parts(folder: Path) -> None:
    """Delete the temporary files that a killed writer left in ``folder``; raises :class:`PoolFileError`."""
    for name in sizes_in(folder):
        target = PART.sub("", name)
        if target != name and (_OURS.match(target) or target in MANIFESTS) and is_regular(folder / name):
            remove(folder / name)


def sizes_in(folder: Path) -> dict[str, int]:
    """Names and bytes of what is in a folder; links are not followed. Raises :class:`PoolFileError`."""
    found = {}
    try:
        with os.scandir(folder) as items:
            for item in items:
                with suppress(FileNotFoundError):  # its owner deleted it meanwhile
                    found[item.name] = item.stat(follow_symlinks=False).st_size
    except OSError as error:
        raise cannot("read", folder, error) from error
    return found


def is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
