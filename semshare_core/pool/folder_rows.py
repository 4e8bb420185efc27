"""Rows of a segment in the pool's folder, opened when they are first wanted."""

from __future__ import annotations

import weakref

from semshare_core.errors import DamagedFileError
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.stored_rows import StoredRows
from semshare_core.pool.segment import Pair


class FolderRows:
    """Rows on disk. A pool of a hundred thousand entries holds the names of as many files.

    A file is open, and mapped into memory, as long as somebody reads it.

    Reading raises :class:`DamagedFileError` where the file is not what was written.
    """

    in_memory = False

    def __init__(self, folder: PoolFolder, namespace: str, segment: str, length: int) -> None:
        self._folder = folder
        self._namespace = namespace
        self._segment = segment
        self._length = length
        self._file: weakref.ref[StoredRows] | None = None

    def opened(self) -> StoredRows:
        """The rows' file, which stays open as long as the caller holds what this returns."""
        rows = self._file() if self._file is not None else None
        if rows is None:
            rows = self._folder.rows(self._namespace, self._segment)
            if rows.n_tokens != self._length:
                raise DamagedFileError(
                    f"{rows.path} is damaged: it holds {rows.n_tokens} rows instead of {self._length}."
                )
            self._file = weakref.ref(rows)
        return rows

    @property
    def n_layers(self) -> int:
        return self.opened().n_layers

    def layer(self, index: int) -> Pair:
        """Keys and values [1, kv_heads, tokens, head_dim] of one layer, memory-mapped."""
        return self.opened().layer(index)

    def like(self, index: int) -> Pair:
        """The layer's dtype, heads and sizes in tensors without rows."""
        return self.opened().like(index)
