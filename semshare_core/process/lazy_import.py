"""Import a module when it is first needed, in one thread at a time.

transformers imports its own parts when they are first named, and fails in the second of two threads that begin at once:
``cannot import name ...``.
"""

from __future__ import annotations

import threading
from importlib import import_module
from types import ModuleType

from semshare_core.process import forking

_importing = forking.free(threading.RLock())


def import_alone(name: str) -> ModuleType:
    """The module called ``name``. Not to be called while a module of ours is imported: two threads could wait for each
    other's modules."""
    with _importing:
        return import_module(name)
