"""Who may use a model: one at a time, and what is done in the background only while no call waits."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from semshare_core.interrupt import NEVER, Interrupt


class ModelTurns:
    """A lock for calls (``with turns:``) that work in the background never makes them queue for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = False
        self._calls = 0  # that run or wait

    def __enter__(self) -> ModelTurns:
        self._take(NEVER)
        return self

    @contextmanager
    def turn(self, interrupt: Interrupt) -> Iterator[None]:
        """A turn that is waited for until ``interrupt`` ends the call; those who wait beside it notice nothing."""
        self._take(interrupt)
        try:
            yield
        finally:
            self.__exit__()

    def _take(self, interrupt: Interrupt) -> None:
        with self._changed:
            self._calls += 1
            try:
                while not self._changed.wait_for(lambda: not self._busy, interrupt.patience):
                    interrupt.check()
            except BaseException:  # an interrupt: nobody is waiting here any more
                self._calls -= 1
                self._changed.notify_all()
                raise
            self._busy = True

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._calls -= 1
            self._free()

    @contextmanager
    def when_idle(self) -> Iterator[None]:
        """A turn that begins when no call runs or waits. Calls that come later wait for its end: keep it short."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and not self._calls)
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._free()

    def locked(self) -> bool:
        """Whether it is somebody's turn."""
        return self._busy

    def _free(self) -> None:
        self._busy = False
        self._changed.notify_all()


_TURNS: weakref.WeakKeyDictionary[PreTrainedModel, ModelTurns] = weakref.WeakKeyDictionary()
_TURNS_GUARD = threading.Lock()


def turns_of(model: PreTrainedModel) -> ModelTurns:
    """One for each model, whatever number of engines share it: hooks sit on the model."""
    with _TURNS_GUARD:
        return _TURNS.setdefault(model, ModelTurns())
