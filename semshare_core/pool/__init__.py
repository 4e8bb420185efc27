"""The pool of reference prompts."""

from semshare_core.pool.entry import Entry, View
from semshare_core.pool.pool import PoolStats, ReferencePool

__all__ = ["Entry", "PoolStats", "ReferencePool", "View"]
