"""Who wants to know what a check found: whoever holds a copy of its call's report, in this process.

Frameworks hand reports on as dictionaries, so a check is known by its id, not by an object.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from semshare_core.process import forking
from semshare_core.report import Canary

Listener = Callable[[Canary], None]

_REMEMBERED = 4096  # checks that are done: a copy of the report may be looked at late

_lock = forking.whole(threading.Lock())
_waiting: dict[str, list[Listener]] = {}
_done: OrderedDict[str, Canary] = OrderedDict()


def announce(canary: Canary) -> None:
    """A check has begun."""
    with _lock:
        _waiting[canary.id] = []


def conclude(canary: Canary) -> list[Listener]:
    """A check is done; who is to be told."""
    with _lock:
        _done[canary.id] = canary
        if len(_done) > _REMEMBERED:
            _done.popitem(last=False)
        return _waiting.pop(canary.id, [])


def when_done(canary: Canary, listener: Listener) -> None:
    """Call ``listener`` with what the check found: now if it is done, otherwise later in the thread that checks.

    It is never called for a check of another process, or one long forgotten.
    """
    with _lock:
        found = canary if canary.status != "pending" else _done.get(canary.id)
        if found is None and canary.id in _waiting:
            _waiting[canary.id].append(listener)
    if found is not None:
        listener(found)
