"""When a request must end early: it is cancelled, or its time is up. Every stage of a request asks."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from semshare_core.errors import CallCancelledError, CallTimeoutError, ConfigError

T = TypeVar("T")

_POLL_SECONDS = 0.02  # between two looks at an event that somebody may set while a request waits for something else


class Interrupt:
    """What may end a request early.

    Args:
        cancel: ends it when set, from any thread.
        timeout: seconds from now after which it ends; None: there is no limit.
        left: ends it when set, as ``cancel`` does. That one is the caller's, this one is ours.

    Raises:
        ConfigError: ``timeout`` is no number of seconds above 0, or ``cancel`` no event.
    """

    def __init__(
        self,
        cancel: threading.Event | None = None,
        timeout: float | None = None,
        left: threading.Event | None = None,
    ) -> None:
        check_limits(cancel, timeout)
        self._events = [event for event in (cancel, left) if event is not None]
        self._timeout = timeout
        self._ends_at = None if timeout is None else time.monotonic() + timeout

    @property
    def possible(self) -> bool:
        """Whether anything can end the request early at all."""
        return bool(self._events) or self._ends_at is not None

    @property
    def due(self) -> bool:
        """Whether the request must end now."""
        return self._cancelled or self._late

    @property
    def _cancelled(self) -> bool:
        return any(event.is_set() for event in self._events)

    @property
    def _late(self) -> bool:
        return self._ends_at is not None and time.monotonic() >= self._ends_at

    def check(self) -> None:
        """Raises :class:`CallCancelledError` or :class:`CallTimeoutError` if the request must end now."""
        if self._cancelled:
            raise CallCancelledError("the call was cancelled, and nothing of it was kept.")
        if self._late:
            raise CallTimeoutError(
                f"the call took longer than timeout={self._timeout:g} seconds and was given up; nothing of it was kept."
            )

    @property
    def patience(self) -> float | None:
        """Seconds that a wait may last before :meth:`check` must be called again; None: for ever."""
        left = None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())
        if not self._events:
            return left
        return _POLL_SECONDS if left is None else min(left, _POLL_SECONDS)

    def wait_for(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. A request that must end does not wait for it.

        For foreign code, which cannot be stopped: ``work`` runs in a thread of its own, where it goes on unheard.
        """
        if not self.possible:
            return work()
        self.check()
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []
        context = contextvars.copy_context()

        def run() -> None:
            try:
                results.append(context.run(work))
            except BaseException as error:  # raised below, in the thread that waits
                errors.append(error)
            finally:
                done.set()

        threading.Thread(target=run, name="semshare-foreign", daemon=True).start()
        while not done.wait(self.patience):
            self.check()
        if errors:
            raise errors.pop()  # the list is in its traceback, and would keep it alive
        return results[0]


def check_limits(cancel: threading.Event | None, timeout: float | None) -> None:
    """Raises :class:`ConfigError` unless these are an event and a number of seconds, or None."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (number and 0 < timeout < threading.TIMEOUT_MAX):
        raise ConfigError(f"timeout={timeout!r} must be a number of seconds above 0, or None.")
    if cancel is not None and not isinstance(cancel, threading.Event):
        raise ConfigError(f"cancel={cancel!r} must be a threading.Event, or None.")


NEVER = Interrupt()
"""Ends nothing."""
