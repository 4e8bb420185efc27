"""Entries on the move: from folder to folder, and through a tar file that holds such a folder."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from semshare_core.errors import PoolFileError
from semshare_core.pool.disk.atomic import cannot, make_folder
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record
from semshare_core.pool.disk.survey import quietly, survey

_HEX = "[0-9a-f]{32}"
_MEMBER = re.compile(rf"^{_HEX}/(pool\.json|{_HEX}/(namespace\.json|{_HEX}\.(entry|rows)))$")


@dataclass
class Copied:
    """How many entries were copied, were there already, clash with rows that are there, or are damaged."""

    copied: int = 0
    present: int = 0
    clashing: int = 0
    damaged: int = 0


def export_entries(path: Path, archive: Path, namespace: str | None = None) -> Copied:
    """Write the entries of all models, of one namespace or of all, to an uncompressed tar file (mode 0600).

    Every byte is verified on the way. The file names in the archive have salts of their own.

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
    part = archive.with_name(f"{archive.name}.{secrets.token_hex(8)}.part")
    counts = Copied()
    try:
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f"{archive.name}.") as place:
            stage = Path(place)
            _copy_all(path, stage, counts, namespace)
            with part.open("xb") as file, tarfile.open(fileobj=file, mode="w") as tar:
                part.chmod(0o600)
                for found in sorted(stage.glob("*/**/*")):
                    if found.is_file():
                        tar.add(found, found.relative_to(stage).as_posix(), filter=_anonymous)
            os.replace(part, archive)
    except OSError as error:
        raise cannot("write", archive, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
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
        with tempfile.TemporaryDirectory(dir=path, prefix="import.", suffix=".part") as stage:
            _unpack(archive, Path(stage))
            if any(Path(stage).iterdir()):  # otherwise nothing was exported
                _copy_all(Path(stage), path, counts)
    except tarfile.TarError as error:
        raise PoolFileError(f"{archive} is damaged, or no uncompressed tar file: {error}.") from error
    except OSError as error:
        raise cannot("import", archive, error) from error
    return counts


def _copy_all(source: Path, target: Path, counts: Copied, namespace: str | None = None) -> None:
    for model in survey(source)[0]:
        with quietly(source, model, read_only=True) as old, quietly(target, model, read_only=False) as new:
            counts.damaged += len(old.skipped())
            present = {(record.namespace, record.id) for record in new.records()}
            for record in old.records():
                if namespace in (None, record.namespace):
                    if (record.namespace, record.id) in present:
                        counts.present += 1
                    else:
                        _copy(record, old, new, counts)
            new.clean()


def _copy(record: Record, old: PoolFolder, new: PoolFolder, counts: Copied) -> None:
    """Rows first. Rows under the same id that are not the same belong to entries that stay."""
    for segment, tokens in record.segments:
        try:
            rows = old.rows(record.namespace, segment)
            layers = [rows.layer(layer) for layer in range(rows.n_layers)]
        except PoolFileError:
            counts.damaged += 1
            return
        if rows.n_tokens != tokens:
            counts.damaged += 1
            return
        try:
            there = new.rows(record.namespace, segment)
        except PoolFileError:
            new.write_rows(record.namespace, segment, layers)
            continue
        if there.sums != rows.sums:
            counts.clashing += 1
            return
    new.write_record(record)
    counts.copied += 1


def _unpack(archive: Path, stage: Path) -> None:
    """Extract the files that an export writes; any other member is a reason to take nothing."""
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not _MEMBER.match(member.name) or not member.isreg() or member.issparse():
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
