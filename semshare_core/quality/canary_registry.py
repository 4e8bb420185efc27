"""Who listens to the canary's checks: to one check by its id, or to all checks of one engine.

Frameworks copy reports as dictionaries, so a check is known by its id, not by an object.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from semshare_core.process import forking
from semshare_core.report import Canary

Listener = Callable[[Canary], None]

_REMEMBERED = 4096  # finished checks: somebody may ask late about a copy of a report


class CanaryRegistry:
    """Listeners to checks. There is one registry per process (:data:`REGISTRY`). Thread-safe.

    An engine owns the list of its listeners, so that listeners that refer to the engine do not keep it in memory.
    """

    def __init__(self) -> None:
        self._lock = forking.whole(threading.Lock())
        self._pending: dict[str, list[Listener]] = {}
        self._finished: OrderedDict[str, Canary] = OrderedDict()

    def when_done(self, canary: Canary, listener: Listener) -> None:
        """Call ``listener`` with the finished check: now if it is finished, otherwise later in the checking thread.

        A check of another process, or one that finished more than 4,096 checks ago, calls nobody.
        """
        with self._lock:
            finished = canary if canary.status != "pending" else self._finished.get(canary.id)
            if finished is None and canary.id in self._pending:
                self._pending[canary.id].append(listener)
        if finished is not None:
            listener(finished)

    def listen(self, engine_listeners: list[Listener], listener: Listener) -> Callable[[], None]:
        """Add ``listener`` to an engine's listeners. The returned function removes it."""
        with self._lock:
            engine_listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in engine_listeners:
                    engine_listeners.remove(listener)

        return end

    def begin(self, canary: Canary) -> None:
        """A check has begun."""
        with self._lock:
            self._pending[canary.id] = []

    def finish(self, canary: Canary, engine_listeners: list[Listener]) -> list[Listener]:
        """A check is finished. Returns all listeners that must be called with it."""
        with self._lock:
            self._finished[canary.id] = canary
            if len(self._finished) > _REMEMBERED:
                self._finished.popitem(last=False)
            return [*self._pending.pop(canary.id, []), *engine_listeners]


REGISTRY = CanaryRegistry()
