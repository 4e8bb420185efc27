"""One process owns a pool's folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from semshare_core.errors import PoolLockedError
from semshare_core.pool.disk.atomic import cannot, make_folder

LOCK_NAME = ".lock"


class OwnerLock:
    """Holds the folder's lock file until released; the system releases it when the process ends, however it ends.

    Raises:
        PoolLockedError: it is held already, here or in another process.
        PoolFileError: the folder cannot be made or written.
    """

    def __init__(self, path: Path) -> None:
        make_folder(path)
        self._lock = FileLock(
            path / LOCK_NAME, mode=0o600, thread_local=False
        )  # whoever closes the pool may release it
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise PoolLockedError(
                f"The pool folder {path} is in use by another process, or by another pool of this one. Close that one, "
                f"choose another folder, or open this one read-only: PoolConfig(read_only=True)."
            ) from error
        except OSError as error:
            raise cannot("lock", path / LOCK_NAME, error) from error

    def close(self) -> None:
        """Give the folder free."""
        self._lock.release()
