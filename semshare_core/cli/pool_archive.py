"""Entries on the move: from folder to folder, and through a tar file that holds such a folder."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from semshare_core.cli.pool_folder import look
from semshare_core.errors import PoolFileError
from semshare_core.pool.disk.atomic import cannot, make_folder, whole_file
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record
from semshare_core.pool.disk.segment_file import SegmentFile

_MEMBER = re.compile(r"pool\.db|rows/[0-9a-f]{32}\.safetensors")


@dataclass
class Copied:
    """How many entries were copied, were there already, clash with rows that are there, or are damaged."""

    copied: int = 0
    present: int = 0
    clashing: int = 0
    damaged: int = 0


def export_entries(path: Path, archive: Path, namespace: str | None = None) -> Copied:
    """Write the entries of all models, of one namespace or of all, to an uncompressed tar file (mode 0600).

    Every byte is verified on the way.

    Raises:
        PoolFileError: the folder cannot be read or the archive not be written, or it exists.
    """
    if archive.is_dir():
        swapped = f" The folder comes first: semshare pool export {archive} {path}" if not path.is_dir() else ""
        raise PoolFileError(f"{archive} is a folder: name a file to write, such as {archive / 'pool.tar'}.{swapped}")
    if os.path.lexists(archive):
        raise PoolFileError(f"{archive} exists: choose another name, or delete it first.")
    if not archive.parent.is_dir():
        raise PoolFileError(f"There is no folder {archive.parent} to write {archive.name} to.")
    counts = Copied()
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f"{archive.name}.") as place:
            _copy_all(look(path), Path(place), counts, namespace)
            with whole_file(archive) as file, tarfile.open(fileobj=file, mode="w") as tar:
                for name in ("pool.db", "rows"):
                    tar.add(Path(place) / name, name, filter=_anonymous)
    except OSError as error:
        raise cannot("write", archive, error) from error
    return counts


def import_entries(path: Path, archive: Path) -> Copied:
    """Add an archive's entries to a folder. What is there stays; every byte is verified.

    Raises:
        PoolFileError: the archive cannot be read, or has members that an export does not write: nothing is imported.
        PoolLockedError: the folder is in use.
    """
    counts = Copied()
    if path.is_file():
        raise PoolFileError(f"{path} is a file. The pool's folder comes first: semshare pool import {archive} {path}")
    if archive.is_dir():
        raise PoolFileError(f"{archive} is a folder: name a file that `semshare pool export` wrote.")
    if not archive.exists():
        raise PoolFileError(f"There is no archive {archive}: name a file that `semshare pool export` wrote.")
    make_folder(path)
    try:
        with tempfile.TemporaryDirectory(dir=path, prefix="import.", suffix=".part") as place:
            _unpack(archive, Path(place))
            _copy_all(look(Path(place)), path, counts)
    except tarfile.TarError as error:
        raise PoolFileError(f"{archive} is damaged, or no uncompressed tar file: {error}.") from error
    except OSError as error:
        raise cannot("import", archive, error) from error
    return counts


def _copy_all(source: PoolFolder, target: Path, counts: Copied, namespace: str | None = None) -> None:
    counts.damaged += len(source.found.skipped)
    with PoolFolder(target, None) as new:
        present = {(record.model, record.namespace, record.id) for record in new.records()}
        for record in source.records():
            if namespace not in (None, record.namespace):
                continue
            if (record.model, record.namespace, record.id) in present:
                counts.present += 1
            else:
                _copy(record, source, new, counts)


def _copy(record: Record, old: PoolFolder, new: PoolFolder, counts: Copied) -> None:
    """Rows first. Rows under the same id that are not the same belong to entries that stay."""
    wanted: list[SegmentFile] = []
    for segment in record.segments:
        try:
            rows = old.rows(segment.id)
            rows.verify(segment)
        except PoolFileError:
            counts.damaged += 1
            return
        try:
            there = new.rows(segment.id)
        except PoolFileError:
            wanted.append(rows)
            continue
        if there.sums != rows.sums:
            counts.clashing += 1
            return
    for rows in wanted:
        with whole_file(new.rows_path(rows.path.stem)) as target, rows.path.open("rb") as content:
            shutil.copyfileobj(content, target)
    new.write_record(record, old.found.models.get(record.model))
    counts.copied += 1


def _unpack(archive: Path, stage: Path) -> None:
    """Extract the files that an export writes; any other member is a reason to take nothing."""
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not _MEMBER.fullmatch(member.name) or not member.isreg() or member.issparse():
                raise PoolFileError(f"{archive} is no export of a pool: it has a member {member.name!r}.")
            content = tar.extractfile(member)
            if content is None or member.size > archive.stat().st_size:
                raise PoolFileError(f"{archive} is damaged: {member.name} is cut short.")
            target = stage / member.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)
            if target.stat().st_size != member.size:
                raise PoolFileError(f"{archive} is damaged: {member.name} is cut short.")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of the user and the times of the staging."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member
