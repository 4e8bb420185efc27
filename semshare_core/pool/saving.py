"""What the background thread writes of the pool, and how a pool comes back from what was written.

An entry's segments are written before the record that names them, and a record is removed before the segments: whenever
the process is killed, every record on disk has all its rows.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence

from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record
from semshare_core.pool.entry import Entry
from semshare_core.pool.folder_rows import FolderRows
from semshare_core.pool.keeper import Keeper
from semshare_core.pool.segment import Segment
from semshare_core.pool.storage import Storage
from semshare_core.pool.vector_rows import Vectors
from semshare_core.tokens import Tokens


class Saving:
    """Has the folder follow the pool, in the order in which things happened.

    What waits to be written is not held: an entry that leaves the pool before its turn has come leaves memory, too.
    """

    def __init__(self, folder: PoolFolder, storage: Storage, keeper: Keeper, lock: threading.RLock) -> None:
        self._folder = folder
        self._storage = storage
        self._keeper = keeper
        self._lock = lock
        self._warned = False

    def save(self, entry: Entry) -> None:
        """Write the segments that are not on disk yet, then the record."""
        saved = _Named(entry)

        def job() -> None:
            self._store(saved)
            self._write_record(saved)

        self._keeper.ask(job)

    def replace(self, old: Segment, holders: Sequence[Entry]) -> None:
        """``old`` was divided: write its parts, then the records that name them, then remove ``old``."""
        namespace, name = old.namespace, old.id
        changed = [_Named(entry) for entry in holders]

        def job() -> None:
            for each in changed:
                self._store(each)
            written = [self._write_record(each) for each in changed]
            if not all(written):  # a record still names the old rows: they stay for the next start
                return
            try:
                self._folder.remove_rows(namespace, name)
            except PoolFileError as error:
                self._warn(error)

        self._keeper.ask(job)

    def forget(self, entry: Entry, released: Sequence[Segment]) -> None:
        """Remove an entry's record and the rows that nobody else holds."""
        namespace, name, gone = entry.namespace, entry.id, [segment.id for segment in released]

        def job() -> None:
            try:
                self._folder.remove_record(namespace, name)
                for segment in gone:
                    self._folder.remove_rows(namespace, segment)
            except PoolFileError as error:
                self._warn(error)

        self._keeper.ask(job)

    def _store(self, named: _Named) -> None:
        entry = named.entry()
        segments = [weakref.ref(segment) for segment in entry.segments] if entry is not None else []
        del entry
        for each in segments:
            segment = each()
            if segment is not None:
                self._storage.store(segment)

    def _write_record(self, named: _Named) -> bool:
        """Have the record on disk say what it should, or be gone with its entry; False if that cannot be done."""
        with self._lock:
            entry = named.entry()
            here = entry is not None and all(entry.id in segment.holders for segment in entry.segments)
            record = _record(entry) if entry is not None and here else None
            if record is None and here:
                return False
            del entry
        try:
            if record is not None:
                self._folder.write_record(record)
            else:
                self._folder.remove_record(named.namespace, named.id)
        except PoolFileError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{error} The pool goes on in memory.", PoolWarning, stacklevel=2)


class _Named:
    """An entry by its name; the entry itself as long as somebody else holds it."""

    def __init__(self, entry: Entry) -> None:
        self.namespace = entry.namespace
        self.id = entry.id
        self.entry = weakref.ref(entry)


def _record(entry: Entry) -> Record | None:
    """What is written of an entry; None while rows of it are not on disk."""
    if not all(segment.stored is not None for segment in entry.segments):
        return None
    return Record(
        namespace=entry.namespace,
        id=entry.id,
        tokens=entry.tokens,
        depth=entry.depth,
        embedding=entry.embedding,
        segments=tuple((segment.id, segment.length) for segment in entry.segments),
        created=entry.created,
        expires=entry.expires,
        kl_bound=entry.kl_bound,
        pinned=entry.pinned,
        uses=entry.segments[-1].uses,
        weights=entry.weights,
        steady=entry.steady,
    )


def restored(folder: PoolFolder, embed: Callable[[Tokens], Vectors] | None) -> Iterator[Entry]:
    """The entries of a folder, their rows left on disk; those that share segments share them again.

    ``embed`` makes their embeddings anew, where nobody can say whether those on disk are from the same encoder.
    """
    known: dict[tuple[str, str], Segment] = {}
    for record in folder.records():
        segments, start = [], 0
        for name, length in record.segments:
            segment = known.get((record.namespace, name))
            if segment is None:
                rows = FolderRows(folder, record.namespace, name, length)
                n_bytes = folder.rows_bytes(record.namespace, name)
                segment = Segment(record.namespace, start, length, rows, n_bytes, stored=rows, id=name)
                known[record.namespace, name] = segment
            segment.uses = max(segment.uses, record.uses)
            segments.append(segment)
            start += length
        entry = Entry(
            record.namespace,
            record.tokens,
            tuple(segments),
            record.depth,
            record.embedding if embed is None else embed(record.tokens),
            record.kl_bound,
            record.pinned,
            record.created,
            record.expires,
            record.weights,
            record.steady,
        )
        yield entry
