"""The pool on disk: records in SQLite, rows in safetensors files; written whole or not at all, verified when read."""

from semshare_core.fingerprint import Fingerprint
from semshare_core.pool.disk.folder import PoolFolder
from semshare_core.pool.disk.record import Record, SegmentRef

__all__ = ["Fingerprint", "PoolFolder", "Record", "SegmentRef"]
