"""Files and folders of the pool: what the system refuses becomes an error of ours, which says what to do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from semshare_core.errors import DamagedFileError, PoolFileError
from semshare_core.process.whole_file import sync_folder, written_whole


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, readable by its owner alone (mode 0600), which becomes ``path`` when the context ends well.

    Raises:
        PoolFileError: full disk, read-only folder and the like; what was there before is there still.
    """
    try:
        with written_whole(path, 0o600) as file:
            yield file
    except OSError as error:
        raise cannot("write", path, error) from error


def remove(path: Path) -> None:
    """Delete a file; one that is gone already is as good. Raises :class:`PoolFileError`."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot("delete", path, error) from error


def make_folder(path: Path) -> None:
    """Create a folder for its owner alone (mode 0700), with those above it, unless it is there.

    Raises:
        PoolFileError: the system does not let us, or something else has that name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot("make", path, error) from error


def names_in(folder: Path) -> list[str]:
    """What is in a folder, sorted. Raises :class:`PoolFileError`."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 -- names, not paths
    except OSError as error:
        raise cannot("read", folder, error) from error


def regular_size(path: Path) -> int:
    """Bytes of a regular file.

    Raises:
        DamagedFileError: it is missing, or a folder, link, device or the like.
        PoolFileError: the system cannot say.
    """
    try:
        found = path.lstat()
    except FileNotFoundError as error:
        raise DamagedFileError(f"{path} is missing.") from error
    except OSError as error:
        raise cannot("read", path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise damaged(path, "it is not a regular file")
    return found.st_size


def damaged(path: Path, why: str) -> DamagedFileError:
    return DamagedFileError(f"{path} is damaged: {why}.")


def cannot(act: str, path: Path, error: OSError) -> PoolFileError:
    """The error to raise when the system refuses to ``act`` on ``path``."""
    return PoolFileError(
        f"Cannot {act} {path}: {error.strerror or error}. Nothing that was there is lost. Check the free space and the "
        f"permissions of the pool's folder, or choose another one."
    )
