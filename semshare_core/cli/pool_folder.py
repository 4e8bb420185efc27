"""Look after a folder as a whole, with no model loaded: what is in it, what is damaged, what is to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from semshare_core.errors import DamagedFileError, PoolFileError
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.lock import LOCK_NAME, OwnerLock
from semshare_core.pool.disk.old_format import models_of_old_formats, remove_old_formats
from semshare_core.pool.disk.record import Record, SegmentRef


@dataclass(frozen=True)
class Criteria:
    """Which entries are to go.

    Attributes:
        namespace: only of this one; with nothing else said, all of it, pinned entries included.
        created_before: seconds since the epoch; older entries go, unless they are pinned.
        max_bytes: the oldest go, unless they are pinned, until what is left takes no more. Of all models together.
    """

    namespace: str | None = None
    created_before: float | None = None
    max_bytes: int | None = None

    @property
    def whole_namespace(self) -> bool:
        return self.namespace is not None and self.created_before is None and self.max_bytes is None


@dataclass(frozen=True)
class Doomed:
    """An entry that is to go, and the bytes of the rows that no entry needs then."""

    record: Record
    n_bytes: int


def look(path: Path) -> PoolFolder:
    """A folder with the entries of all models, to read.

    Raises:
        PoolFileError: there is no such folder, or no pool has ever been in it.
    """
    _check_is_pool(path)
    return PoolFolder(path, None, read_only=True)


def n_bytes(records: Sequence[Record]) -> int:
    """Bytes of the rows of all records; what they share counts once."""
    return sum(segment.n_bytes for segment in {segment for record in records for segment in record.segments})


def damage(folder: PoolFolder) -> Iterator[tuple[PoolFileError, SegmentRef]]:
    """Read every byte of all rows: what is wrong, and with which segments."""
    for segment in {segment: None for record in folder.records() for segment in record.segments}:
        try:
            folder.rows(segment.id).verify(segment)
        except PoolFileError as error:
            yield error, segment


def mend(path: Path) -> None:
    """Delete what is damaged, and the entries that need it. Raises :class:`PoolFileError`."""
    _check_is_pool(path)
    with PoolFolder(path, None) as folder:
        for error, segment in list(damage(folder)):
            if isinstance(error, DamagedFileError):
                folder.evict(segment.id)


def choose(path: Path, criteria: Criteria) -> list[Doomed]:
    """The entries that are to go, oldest first. Nothing is written."""
    with look(path) as folder:
        found = [record for record in folder.records() if criteria.namespace in (None, record.namespace)]
    holders = Counter(segment for record in found for segment in set(record.segments))
    left = n_bytes(found)
    doomed = []
    for record in found:
        old = criteria.created_before is not None and record.created < criteria.created_before
        beyond = criteria.max_bytes is not None and left > criteria.max_bytes
        if criteria.whole_namespace or ((old or beyond) and not record.pinned):
            holders.subtract(set(record.segments))
            freed = sum(segment.n_bytes for segment in set(record.segments) if not holders[segment])
            left -= freed
            doomed.append(Doomed(record, freed))
    return doomed


def give_up(path: Path, doomed: Sequence[Doomed]) -> None:
    """Delete entries, then the rows that no entry names.

    Raises:
        PoolLockedError: the folder is in use.
        PoolFileError: the system does not let us.
    """
    with PoolFolder(path, None) as folder:
        for item in doomed:
            names = item.record.model, item.record.namespace, item.record.id
            folder.remove_where("model = ? AND namespace = ? AND id = ?", *names)


def clear(path: Path, namespace: str | None) -> None:
    """Delete the entries of a namespace, or all, those of earlier versions too. Raises :class:`PoolFileError`."""
    _check_is_pool(path)
    if namespace is None:
        with closing(OwnerLock(path)):
            remove_old_formats(path)
    with PoolFolder(path, None) as folder:
        folder.clear(namespace)
        folder.forget_log()


def _check_is_pool(path: Path) -> None:
    if path.is_file():
        raise PoolFileError(
            f"{path} is a file and no pool's folder. The entries of an export are looked at in the folder "
            "that they were imported to (semshare pool import FOLDER ARCHIVE)."
        )
    if not path.is_dir():
        raise PoolFileError(f"There is no pool folder {path}: name one that a pool has written to.")
    if not any((path / name).exists() for name in (LOCK_NAME, "pool.db")) and not models_of_old_formats(path):
        raise PoolFileError(f"{path} is no pool's folder: name the one that PoolConfig(path=...) has.")
