"""Who may use a model: one at a time, and what is done in the background only while no call waits."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from transformers import PreTrainedModel

from semshare_core.errors import NestedCallError
from semshare_core.process import forking
from semshare_core.process.interrupt import NEVER, Interrupt

_inside: ContextVar[tuple[object, ...]] = ContextVar("semshare_turns", default=())  # the turns that code runs in


class ModelTurns:
    """A lock for calls (``with turns:``) that work in the background never makes them queue for.

    Code that runs inside a turn, such as a caller's logits processor, gets no other: it would wait for its own end. It
    is known by its context, which reaches the threads that a call starts and waits for.
    """

    def __init__(self, model: PreTrainedModel | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self._changed = threading.Condition(forking.whole(threading.RLock()))
        self._busy = False
        self._whose: int | None = None  # the thread whose turn it is
        self._turn: object = None
        self._outside: Token[tuple[object, ...]] | None = None
        self._calls = 0  # that run or wait
        forking.renewed(self._after_fork)

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
            if self._busy and self._turn in _inside.get():
                raise NestedCallError(
                    "this call was made inside another one of the same model, by a logits processor, a hook or the "
                    "like, and would wait for that one's end for ever: make it before or behind that call, or ask a "
                    "model of its own."
                )
            self._calls += 1
            try:
                while not self._changed.wait_for(lambda: not self._busy, interrupt.patience):
                    interrupt.check()
            except BaseException:  # an interrupt: nobody is waiting here any more
                self._calls -= 1
                self._changed.notify_all()
                raise
            self._begin()

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._calls -= 1
            self._free()

    @contextmanager
    def when_idle(self) -> Iterator[None]:
        """A turn that begins when no call runs or waits. Calls that come later wait for its end: keep it short."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and not self._calls)
            self._begin()
        try:
            yield
        finally:
            with self._changed:
                self._free()

    def locked(self) -> bool:
        """Whether it is somebody's turn."""
        return self._busy

    def _begin(self) -> None:
        self._busy, self._whose, self._turn = True, threading.get_ident(), object()
        self._outside = _inside.set((*_inside.get(), self._turn))

    def _free(self) -> None:
        self._busy, self._whose, self._turn = False, None, None
        self._changed.notify_all()
        if self._outside is not None:
            _inside.reset(self._outside)
            self._outside = None

    def _after_fork(self) -> None:
        """In a forked child the calls of other threads are gone. A call that forked goes on there, too."""
        own = self._whose == threading.get_ident()
        model = None if self._model is None else self._model()
        if self._busy and not own and model is not None:
            _remove_hooks(model)
        self._busy, self._calls = own, int(own)


def _remove_hooks(model: PreTrainedModel) -> None:
    """Those of ours that a call has laid on ``model``. No handle is sure to know them: the call may have been cut off
    between laying one and noting it."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook.__module__.startswith("semshare_core.")]:
                del hooks[key]


_TURNS: weakref.WeakKeyDictionary[PreTrainedModel, ModelTurns] = weakref.WeakKeyDictionary()
_TURNS_GUARD = forking.whole(threading.Lock())


def turns_of(model: PreTrainedModel) -> ModelTurns:
    """One for each model, whatever number of engines share it: hooks sit on the model."""
    with _TURNS_GUARD:
        if model not in _TURNS:
            _TURNS[model] = ModelTurns(model)
        return _TURNS[model]
