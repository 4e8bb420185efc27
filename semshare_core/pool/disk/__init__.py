"""The pool on disk: safetensors files, written whole or not at all, verified when they are read."""

from semshare_core.pool.disk.fingerprint import Fingerprint, fingerprint
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record
from semshare_core.pool.disk.skipped import Skipped
from semshare_core.pool.disk.stored_rows import StoredRows

__all__ = ["Fingerprint", "PoolFolder", "Record", "Skipped", "StoredRows", "fingerprint"]
