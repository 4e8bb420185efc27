"""Write a file whole or not at all: a temporary neighbour, flushed to the disk, takes the target's name.

``os.replace`` is atomic (POSIX rename), so that whoever is killed, or finds the disk full, leaves the old file or the
new one. The folder is flushed too, or a power failure could forget the new name.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from semshare_core.errors import PoolFileError

PART = re.compile(r"\.[0-9a-f]{16}\.part$")
"""How the names of temporary files end."""

_NOT_OURS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_whole(path: Path, data: bytes) -> None:
    """Make ``data`` the content of ``path``, readable by its owner alone (mode 0600).

    Raises:
        PoolFileError: full disk, read-only folder and the like; what was there before is there still.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    try:
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOT_OURS, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(descriptor)
            os.replace(part, path)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot("write", path, error) from error


def remove(path: Path) -> None:
    """Delete a file; one that is gone already is as good.

    Raises:
        PoolFileError: the system does not let us.
    """
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


def cannot(act: str, path: Path, error: OSError) -> PoolFileError:
    """The error to raise when the system refuses to ``act`` on ``path``."""
    return PoolFileError(
        f"Cannot {act} {path}: {error.strerror or error}. Nothing that was there is lost. Check the free space and the "
        f"permissions of the pool's folder, or choose another one."
    )
