"""Rows of a segment in the pool's folder, opened when they are first wanted."""

from __future__ import annotations

from semshare_core.errors import DamagedFileError
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.stored_rows import StoredRows
from semshare_core.pool.segment import Pair


class FolderRows:
    """Rows on disk. A pool of a hundred thousand entries holds the names of as many files, and few of them open.

    Reading raises :class:`DamagedFileError` where the file is not what was written.
    """

    in_memory = False

    def __init__(self, folder: PoolFolder, namespace: str, segment: str, length: int) -> None:
        self._folder = folder
        self._namespace = namespace
        self._segment = segment
        self._length = length
        self._opened: StoredRows | None = None

    def _open(self) -> StoredRows:
        # without a lock (functools.cached_property has one until Python 3.12): a fork would find it held for ever
        if self._opened is not None:
            return self._opened
        rows = self._folder.rows(self._namespace, self._segment)
        if rows.n_tokens != self._length:
            raise DamagedFileError(f"{rows.path} is damaged: it holds {rows.n_tokens} rows instead of {self._length}.")
        self._opened = rows
        return rows

    @property
    def n_layers(self) -> int:
        return self._open().n_layers

    def layer(self, index: int) -> Pair:
        """Keys and values [1, kv_heads, tokens, head_dim] of one layer, memory-mapped."""
        return self._open().layer(index)

    def like(self, index: int) -> Pair:
        """The layer's dtype, heads and sizes in tensors without rows."""
        return self._open().like(index)
