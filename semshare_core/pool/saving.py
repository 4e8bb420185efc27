"""What the background thread writes of the pool, and how a pool comes back from what was written.

An entry's segments are written before the record that names them, and a record is removed before the segments: whenever
the process is killed, every record on disk has all its rows.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence

from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.match.plan import Tokens
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record
from semshare_core.pool.entry import Entry
from semshare_core.pool.folder_rows import FolderRows
from semshare_core.pool.keeper import Keeper
from semshare_core.pool.segment import Segment
from semshare_core.pool.storage import Storage
from semshare_core.pool.vector_rows import Vectors


class Saving:
    """Has the folder follow the pool, in the order in which things happened."""

    def __init__(self, folder: PoolFolder, storage: Storage, keeper: Keeper, lock: threading.RLock) -> None:
        self._folder = folder
        self._storage = storage
        self._keeper = keeper
        self._lock = lock
        self._warned = False

    def save(self, entry: Entry) -> None:
        """Write the segments that are not on disk yet, then the record."""

        def job() -> None:
            for segment in entry.segments:
                self._storage.store(segment)
            self._write_record(entry)

        self._keeper.ask(job)

    def replace(self, old: Segment, holders: Sequence[Entry]) -> None:
        """``old`` was divided: write its parts, then the records that name them, then remove ``old``."""

        def job() -> None:
            for entry in holders:
                for segment in entry.segments:
                    self._storage.store(segment)
            written = [self._write_record(entry) for entry in holders]
            if all(written):  # otherwise a record still names the old rows: they stay for the next start
                self._folder.remove_rows(old.namespace, old.id)

        self._keeper.ask(job)

    def forget(self, entry: Entry, released: Sequence[Segment]) -> None:
        """Remove an entry's record and the rows that nobody else holds."""

        def job() -> None:
            try:
                self._folder.remove_record(entry.namespace, entry.id)
                for segment in released:
                    self._folder.remove_rows(segment.namespace, segment.id)
            except PoolFileError as error:
                self._warn(error)

        self._keeper.ask(job)

    def _write_record(self, entry: Entry) -> bool:
        """Have the record on disk say what it should, or be gone with its entry; False if that cannot be done."""
        with self._lock:
            segments = entry.segments
            here = all(entry.id in segment.holders for segment in segments)
            if here and not all(segment.stored is not None for segment in segments):
                return False
        try:
            if here:
                self._folder.write_record(_record(entry, segments))
            else:
                self._folder.remove_record(entry.namespace, entry.id)
        except PoolFileError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{error} The pool goes on in memory.", PoolWarning, stacklevel=2)


def _record(entry: Entry, segments: Sequence[Segment]) -> Record:
    return Record(
        namespace=entry.namespace,
        id=entry.id,
        tokens=entry.tokens,
        depth=entry.depth,
        embedding=entry.embedding,
        segments=tuple((segment.id, segment.length) for segment in segments),
        created=entry.created,
        expires=entry.expires,
        kl_bound=entry.kl_bound,
        pinned=entry.pinned,
        uses=segments[-1].uses,
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
