"""The folder follows the pool, in the background; and a pool comes back from its folder.

An entry's rows are written before the record that names them, and its record is removed before its rows: whenever the
process is killed, every record on disk has all its rows.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence

from semshare_core.errors import PoolFileError, PoolWarning
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import ENTRY_FIELDS, Record
from semshare_core.pool.entry import Entry
from semshare_core.pool.indexes.vector_rows import Vectors
from semshare_core.pool.segment import Segment
from semshare_core.pool.tiers import Tiers
from semshare_core.process.worker import Worker
from semshare_core.tokens import Tokens


class DiskWriter:
    """Has the folder follow the pool, in the order in which things happened.

    What waits to be written is not held: an entry that leaves the pool before its turn has come leaves memory, too.
    """

    def __init__(self, folder: PoolFolder, tiers: Tiers, worker: Worker, lock: threading.RLock) -> None:
        self._folder = folder
        self._tiers = tiers
        self._worker = worker
        self._lock = lock
        self._gone: list[tuple[tuple[str, str], list[str]]] = []
        self._unwritten: dict[tuple[str, str], _Named] = {}  # the disk was full, say: they come with the next record
        self._warned = False

    def save(self, entry: Entry) -> None:
        """Write the segments that are not on disk yet, then the record."""
        saved = _Named(entry)

        def job() -> None:
            self._store(saved)
            if self._write_record(saved):
                late, self._unwritten = self._unwritten, {}
                for each in late.values():
                    self._write_record(each)

        self._worker.ask(job)

    def replace(self, old: Segment, holders: Sequence[Entry]) -> None:
        """``old`` was divided: write its parts, then the records that name them, then remove ``old``."""
        name = old.id
        changed = [_Named(entry) for entry in holders]

        def job() -> None:
            for each in changed:
                self._store(each)
            written = [self._write_record(each) for each in changed]
            if all(written):  # otherwise a record still names the old rows: they stay for the next start
                self._try(lambda: self._folder.remove([], [name]))

        self._worker.ask(job)

    def forget(self, entry: Entry, released: Sequence[Segment]) -> None:
        """Remove an entry's record, and the rows that nobody else holds. Needs the pool's lock."""
        self._gone.append(((entry.namespace, entry.id), [segment.id for segment in released]))
        self._worker.ask(lambda: self._try(self._remove_gone))

    def clear(self, drop: Callable[[], int], namespace: str | None) -> int:
        """Have ``drop`` empty the pool, and the folder with it, before anything else is written; returns what it does.

        Raises:
            PoolFileError: memory forgot it all, and the disk did not.
        """
        with self._folder.changing:
            count = drop()
            try:
                self._tiers.forget_others(self._folder.clear(namespace))
                self._remove_gone()
            finally:
                self._folder.forget_log()
        return count

    def _remove_gone(self) -> None:
        """Remove what has left since this last succeeded. A full disk has no room for the deletion of a record either,
        and rows go after their records: all of it is tried again before the next record is written."""
        with self._lock:
            gone, self._gone = self._gone, []
        try:
            self._folder.remove([name for name, _ in gone])
        except PoolFileError:
            with self._lock:
                self._gone[:0] = gone
            raise
        self._folder.remove([], [segment for _, released in gone for segment in released])

    def _try(self, remove: Callable[[], object]) -> None:
        try:
            remove()
        except PoolFileError as error:
            self._warn(error)

    def _store(self, named: _Named) -> None:
        entry = named.entry()
        segments = [weakref.ref(segment) for segment in entry.segments] if entry is not None else []
        del entry
        for each in segments:
            segment = each()
            if segment is not None:
                self._tiers.store(segment)

    def _write_record(self, named: _Named) -> bool:
        """Have the record on disk say what it should, or be gone with its entry; False if that cannot be done."""
        try:
            with self._folder.changing:  # nothing is cleared between looking and writing
                self._remove_gone()
                with self._lock:
                    entry = named.entry()
                    here = entry is not None and all(entry.id in segment.holders for segment in entry.segments)
                    record = self._record(entry) if entry is not None and here else None
                    del entry
                if record is not None:
                    self._folder.write_record(record)
                elif not here:
                    self._folder.remove([named.name])
                return record is not None or not here
        except PoolFileError as error:
            self._warn(error)
            self._unwritten[named.name] = named
            return False

    def _record(self, entry: Entry) -> Record | None:
        """What is written of an entry; None while rows of it are not on disk."""
        assert self._folder.model is not None
        stored = [segment.stored for segment in entry.segments if segment.stored is not None]
        if len(stored) < len(entry.segments):
            return None
        return Record(
            model=self._folder.model.digest,
            id=entry.id,
            segments=tuple(rows.ref for rows in stored),
            uses=entry.segments[-1].uses,
            **{name: getattr(entry, name) for name in ENTRY_FIELDS},
        )

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"{error} The pool goes on in memory.", PoolWarning, stacklevel=2)


class _Named:
    """An entry by its name; the entry itself as long as somebody else holds it."""

    def __init__(self, entry: Entry) -> None:
        self.name = entry.namespace, entry.id
        self.entry = weakref.ref(entry)


def restored(folder: PoolFolder, tiers: Tiers, embed: Callable[[Tokens], Vectors] | None) -> Iterator[Entry]:
    """The entries of a folder, their rows left on disk; those that share segments share them again.

    ``embed`` makes their embeddings anew, where nobody can say whether those on disk are from the same encoder.
    """
    known: dict[str, Segment] = {}
    for record in folder.records():
        segments = tiers.on_disk(record.namespace, record.segments, known)
        for segment in segments:
            segment.uses = max(segment.uses, record.uses)
        fields = {name: getattr(record, name) for name in ENTRY_FIELDS}
        if embed is not None:
            fields["embedding"] = embed(record.tokens)
        yield Entry(segments=tuple(segments), **fields)
