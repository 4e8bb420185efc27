"""Who listens to the canary's checks: to one check by its id, or to all checks of one engine.

Frameworks copy reports as dictionaries, so a check is known by its id, not by an object.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from semshare_core.process import forking
from semshare_core.quality.late_results import LateResults
from semshare_core.report import Canary

Listener = Callable[[Canary], None]


class CanaryRegistry:
    """Listeners to checks. There is one registry per process (:data:`REGISTRY`). Thread-safe.

    An engine owns the list of its listeners, so that listeners that refer to the engine do not keep it in memory.
    """

    def __init__(self) -> None:
        self._lock = forking.whole(threading.Lock())
        self._checks: LateResults[Canary] = LateResults()

    def when_done(self, canary: Canary, listener: Listener) -> None:
        """Call ``listener`` with the finished check: now if it is finished, otherwise later in the checking thread.

        A check of another process, or one that finished more than 4,096 checks ago, calls nobody.
        """
        if canary.status != "pending":
            listener(canary)
        else:
            self._checks.when_done(canary.id, listener)

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
        self._checks.begin(canary.id)

    def finish(self, canary: Canary, engine_listeners: list[Listener]) -> list[Listener]:
        """A check is finished. Returns all listeners that must be called with it."""
        own = self._checks.finish(canary.id, canary)
        with self._lock:
            return [*own, *engine_listeners]


REGISTRY = CanaryRegistry()
