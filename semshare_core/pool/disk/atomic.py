"""Write a file whole or not at all: a temporary neighbour, flushed to the disk, takes the target's name.

``os.replace`` is atomic (POSIX rename), so that whoever is killed, or finds the disk full, leaves the old file or the
new one. The folder is flushed too, or a power failure could forget the new name.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from semshare_core.errors import DamagedFileError, PoolFileError

PART = r"\.[0-9a-f]{16}\.part"
"""How the names of temporary files end."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, readable by its owner alone (mode 0600), which becomes ``path`` when the context ends well.

    Raises:
        PoolFileError: full disk, read-only folder and the like; what was there before is there still.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            with os.fdopen(os.open(part, _FLAGS, 0o600), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        sync_folder(path.parent)
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


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk; Windows has no such call."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
