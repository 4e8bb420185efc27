"""Which entries of a folder to give up: those of a namespace, old ones, or the oldest beyond a number of bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from semshare_core.pool.disk.fingerprint import Fingerprint
from semshare_core.pool.disk.record import Record
from semshare_core.pool.disk.survey import quietly, survey


@dataclass(frozen=True)
class Criteria:
    """What to give up.

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
    """An entry to give up, and the bytes that go with it: its file, and rows that no entry needs any more."""

    model: Fingerprint
    record: Record
    n_bytes: int


def choose(path: Path, criteria: Criteria) -> list[Doomed]:
    """The entries to give up, oldest first. Nothing is written."""
    found: list[tuple[Fingerprint, Record, dict[Path, int]]] = []
    for model in survey(path)[0]:
        with quietly(path, model, read_only=True) as folder:
            records = [record for record in folder.records() if criteria.namespace in (None, record.namespace)]
            found += [(model, record, folder.files_of(record)) for record in records]
    found.sort(key=lambda item: item[1].created)
    holders = Counter(file for _, _, files in found for file in files)
    left = sum({file: size for _, _, files in found for file, size in files.items()}.values())
    doomed = []
    for model, record, files in found:
        old = criteria.created_before is not None and record.created < criteria.created_before
        beyond = criteria.max_bytes is not None and left > criteria.max_bytes
        if criteria.whole_namespace or ((old or beyond) and not record.pinned):
            holders.subtract(list(files))  # of a mapping it would subtract the sizes
            freed = sum(size for file, size in files.items() if not holders[file])
            left -= freed
            doomed.append(Doomed(model, record, freed))
    return doomed


def give_up(path: Path, doomed: list[Doomed]) -> None:
    """Delete the entries, then the rows that no entry names.

    Raises:
        PoolLockedError: the folder is in use.
        PoolFileError: the system does not let us.
    """
    for model in {item.model.digest: item.model for item in doomed}.values():
        with quietly(path, model, read_only=False) as folder:
            for item in doomed:
                if item.model == model:
                    folder.remove_record(item.record.namespace, item.record.id)
            folder.clean()
