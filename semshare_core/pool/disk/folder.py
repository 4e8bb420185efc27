"""The pool's folder: what outlives the process.

::

    <path>/.lock                                   held by the process that owns the folder
    <path>/<fingerprint>/pool.json                 for which model
    <path>/<fingerprint>/<random>/namespace.json   whose, and the salt of the names
    <path>/<fingerprint>/<random>/<hash>.entry     a record: tokens, depths, embedding, the names of its segments
    <path>/<fingerprint>/<random>/<hash>.rows      a segment: keys and values of consecutive tokens

A record is written after its rows and deleted before them; then a process may be killed at any moment, and the next
owner finds whole records, and perhaps rows that no record names, which it deletes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from semshare_core.errors import ConfigError, DamagedFileError, PoolFileError
from semshare_core.pool.disk.atomic import make_folder
from semshare_core.pool.disk.checked_file import damaged
from semshare_core.pool.disk.fingerprint import Fingerprint
from semshare_core.pool.disk.lock import OwnerLock
from semshare_core.pool.disk.manifest import PoolManifest, read_manifest, write_manifest
from semshare_core.pool.disk.record import Record, encode_record
from semshare_core.pool.disk.shelf import (
    FOLDER_NAME,
    Shelf,
    drop_folder,
    empty_folder,
    is_folder,
    remove_parts,
    sizes_in,
)
from semshare_core.pool.disk.skipped import Skipped, warn_of
from semshare_core.pool.disk.stored_rows import StoredRows, encode_rows
from semshare_core.process.forking import free, renewed
from semshare_core.process.paths import absolute

MANIFEST = "pool.json"
_UNFINISHED = re.compile(r"^[0-9a-f]{32}\.[0-9a-f]{16}\.part$")


class PoolFolder:
    """Records and rows of one model in a folder. One process owns it and writes; others may read.

    Reading is safe from any thread, also beside a writer; writers wait for each other.

    Args:
        path: made if it is missing, unless ``read_only``.
        fingerprint: of the model. Other models' files are left alone, with one :class:`PoolWarning`.
        read_only: take no lock, and write nothing. What the owner adds later is not seen.

    Raises:
        PoolLockedError: another process owns the folder.
        NewerFileError: it was made by a later version.
        PoolFileError: it cannot be read or written, or is no folder.
    """

    def __init__(self, path: str | Path, fingerprint: Fingerprint, *, read_only: bool = False) -> None:
        self.path = absolute(path)
        self.fingerprint = fingerprint
        self.read_only = read_only
        self._home = self.path / fingerprint.digest
        self._shelves: dict[str, Shelf] = {}
        self._skipped: list[Skipped] = []
        self._records: list[Record] | None = None
        self._writing = free(threading.RLock())
        self._lock: OwnerLock | None = None
        renewed(self._after_fork)
        if read_only:
            if not self.path.is_dir():
                raise PoolFileError(f"There is no pool folder {self.path}: name one that a pool has written to.")
        else:
            self._lock = OwnerLock(self.path)
        with ExitStack() as undo:
            undo.callback(self.close)
            self._open()
            undo.pop_all()

    def records(self) -> list[Record]:
        """All records that can be used.

        The others are passed over with one :class:`PoolWarning` of each kind, at opening.
        """
        found, self._records = self._records, None
        if found is None:  # they were asked for before, and may have changed
            looked = [shelf.look() for shelf in list(self._shelves.values())]
            found = [record for part in looked for record in part.records]
            warn_of(item for part in looked for item in part.skipped)
        return found

    def rows(self, namespace: str, segment: str) -> StoredRows:
        """Open a segment's rows, memory-mapped.

        Raises:
            PoolFileError: they cannot be used; :class:`DamagedFileError` when missing or damaged.
        """
        shelf = self._shelves.get(namespace)
        if shelf is None:
            raise DamagedFileError(f"{self._home} holds nothing of namespace {namespace!r}.")
        return shelf.rows(shelf.rows_path(segment))

    def rows_bytes(self, namespace: str, segment: str) -> int:
        """Bytes of a segment's file, 0 if there is none."""
        shelf = self._shelves.get(namespace)
        return shelf.sizes.get(shelf.rows_path(segment).name, 0) if shelf is not None else 0

    def write_rows(self, namespace: str, segment: str, rows: Sequence[tuple[Tensor, Tensor]]) -> int:
        """Keep a segment, instead of one with the same id; returns the bytes of its file.

        While it is written, memory holds its content twice more.

        Args:
            rows: per layer keys and values [1, kv_heads, n, head_dim], on any device; shapes and dtypes may differ from
                layer to layer, n may not.

        Raises:
            PoolFileError: full disk, read-only folder and the like; what was there before is there still.
            ValueError: ``rows`` have other shapes.
        """
        data = encode_rows(rows, segment, self.fingerprint.digest)
        with self._writing:
            shelf = self._shelf(namespace)
            shelf.write(shelf.rows_path(segment), data)
        return len(data)

    def write_record(self, record: Record) -> int:
        """Keep a record, instead of one with the same id; returns the bytes of its file.

        Raises:
            PoolFileError: full disk, read-only folder and the like; what was there before is there still.
        """
        data = encode_record(record, self.fingerprint.digest)
        with self._writing:
            shelf = self._shelf(record.namespace)
            shelf.write(shelf.entry_path(record.id), data)
        return len(data)

    def remove_record(self, namespace: str, entry: str) -> None:
        """Delete a record, if it is there; raises :class:`PoolFileError`."""
        self._remove(namespace, entry, Shelf.entry_path)

    def remove_rows(self, namespace: str, segment: str) -> None:
        """Delete a segment, if it is there; open :class:`StoredRows` stay valid. Raises :class:`PoolFileError`."""
        self._remove(namespace, segment, Shelf.rows_path)

    def namespaces(self) -> list[str]:
        """Names of those that have files here."""
        return list(self._shelves)

    def n_bytes(self, namespace: str | None = None) -> int:
        """Bytes of this model's records and rows, damaged ones included; of one namespace or of all."""
        shelves = list(self._shelves.values())
        return sum(shelf.n_bytes for shelf in shelves if namespace in (None, shelf.namespace))

    def files_of(self, record: Record) -> dict[Path, int]:
        """The record's file and its rows', each with its bytes."""
        shelf = self._shelves[record.namespace]
        paths = [shelf.entry_path(record.id), *(shelf.rows_path(segment) for segment, _ in record.segments)]
        return {path: shelf.sizes[path.name] for path in paths}

    def skipped(self) -> list[Skipped]:
        """The files of this model that were passed over at opening."""
        return list(self._skipped)

    def verify(self) -> Iterator[Skipped]:
        """Read every byte; yields the files that are not what was written, those of :meth:`skipped` first."""
        yield from self._skipped
        for shelf in list(self._shelves.values()):
            yield from shelf.verify()

    def mend(self) -> None:
        """Delete damaged files, the records that need them, and what only these named; raises :class:`PoolFileError`.

        Files of later versions, and those that cannot be read, stay.
        """
        with self._writing:
            self._before_writing()
            for item in self._skipped:
                if item.kind == "damaged" and FOLDER_NAME.match(item.path.name) and is_folder(item.path):
                    empty_folder(item.path)
            for shelf in list(self._shelves.values()):
                shelf.mend()
                self._drop_if_empty(shelf)
            self._skipped = [item for item in self._skipped if os.path.lexists(item.path)]

    def clean(self) -> None:
        """Delete rows that no record names; raises :class:`PoolFileError`."""
        with self._writing:
            self._before_writing()
            for shelf in list(self._shelves.values()):
                shelf.clean(shelf.look())
                self._drop_if_empty(shelf)

    def close(self) -> None:
        """Give up the ownership. Open :class:`StoredRows` stay valid; nothing can be written any more."""
        with self._writing:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    def _after_fork(self) -> None:
        """A forked child reads what was there; it closed its copy of the lock file, and the parent owns the folder."""
        self.read_only, self._lock = True, None

    def __enter__(self) -> PoolFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        others = [self.path / name for name in sorted(sizes_in(self.path)) if FOLDER_NAME.match(name)]
        others = [path for path in others if path != self._home]
        self._open_home()
        self._records = []
        for name in sorted(sizes_in(self._home)) if self._home.is_dir() else ():
            path = self._home / name
            if FOLDER_NAME.match(name):
                self._open_shelf(path)
            elif _UNFINISHED.match(name) and is_folder(path) and not self.read_only:
                drop_folder(path)
        foreign = [Skipped(path, "foreign", f"{path} is for another model, tokenizer or dtype.") for path in others]
        warn_of([*foreign, *self._skipped])

    def _open_home(self) -> None:
        """Make or check the model's folder. A damaged manifest is written again: we know what belongs in it."""
        if self._home.is_symlink():
            raise PoolFileError(f"{self._home} is a symbolic link, which is not followed: move the folder itself.")
        if self.read_only and not self._home.exists():
            return
        manifest = self._home / MANIFEST
        wanted = PoolManifest(fingerprint=dict(self.fingerprint.description))
        if not self.read_only:
            make_folder(self._home)
            remove_parts(self._home)
            if not os.path.lexists(manifest):
                write_manifest(manifest, wanted)
        try:
            if read_manifest(PoolManifest, manifest).fingerprint != wanted.fingerprint:
                raise damaged(manifest, "it describes another model than its folder's name")
        except DamagedFileError as error:
            self._skipped.append(Skipped.of(manifest, error))
            if not self.read_only:
                write_manifest(manifest, wanted)

    def _open_shelf(self, path: Path) -> None:
        """Take in a namespace's folder and its records; its owner cleans it up."""
        try:
            if not is_folder(path):
                raise damaged(path, "it is no folder")
            if not self.read_only and not sizes_in(path):  # killed while deleting it
                drop_folder(path)
                return
            shelf = Shelf(path, self.fingerprint.digest)
            if shelf.namespace in self._shelves:
                raise damaged(path, f"there is another folder of namespace {shelf.namespace!r}")
        except PoolFileError as error:
            self._skipped.append(Skipped.of(path, error))
            return
        found = shelf.look()
        self._skipped += found.skipped
        if not self.read_only:
            shelf.clean(found)
            if shelf.drop_if_empty():
                return
        self._shelves[shelf.namespace] = shelf
        self._records = [*(self._records or []), *found.records]

    def _shelf(self, namespace: str) -> Shelf:
        """The namespace's, made if there is none."""
        self._before_writing()
        if namespace not in self._shelves:
            try:
                namespace.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"namespace={namespace!r} cannot be written to a file: {error.reason}.") from error
            self._shelves[namespace] = Shelf.make(self._home, namespace, self.fingerprint.digest)
        return self._shelves[namespace]

    def _remove(self, namespace: str, name: str, path: Callable[[Shelf, str], Path]) -> None:
        with self._writing:
            self._before_writing()
            shelf = self._shelves.get(namespace)
            if shelf is not None:
                shelf.remove(path(shelf, name))
                self._drop_if_empty(shelf)

    def _drop_if_empty(self, shelf: Shelf) -> None:
        if shelf.drop_if_empty():
            del self._shelves[shelf.namespace]

    def _before_writing(self) -> None:
        if self._lock is None:
            state = "was opened read-only" if self.read_only else "is closed"
            raise PoolFileError(f"The pool folder {self.path} {state}: nothing is written to it or deleted from it.")
        self._records = None
