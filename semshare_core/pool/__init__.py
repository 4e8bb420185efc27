"""The pool of reference prompts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semshare_core.pool.entry import Entry, View
    from semshare_core.pool.pool import ReferencePool
    from semshare_core.pool.stats import PoolStats

__all__ = ["Entry", "PoolStats", "ReferencePool", "View"]

_PLACES = {"Entry": "entry", "View": "entry", "ReferencePool": "pool", "PoolStats": "stats"}


def __getattr__(name: str) -> Any:
    """Names are loaded when they are asked for: who looks after a folder needs no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
