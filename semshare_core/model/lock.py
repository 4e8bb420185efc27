"""One request at a time uses a model. Background work uses it only while no request runs or waits.

A request that arrives while background work runs does not wait for its end: the work's interrupt is due from then on,
and ends it between two layers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from semshare_core.errors import NestedCallError
from semshare_core.process import forking
from semshare_core.process.interrupt import NEVER, Interrupt

_UNWANTED_SECONDS = 0.1  # so often work that waits for its turn looks whether its owner still wants it


class CallWaits(Exception):
    """A request waits for the model: background work gives up its pass, and begins it again later."""


class _WhileIdle(Interrupt):
    """Ends background work as soon as a request waits, or when its owner wants no more of it."""

    def __init__(self, lock: ModelLock, unwanted: Callable[[], bool]) -> None:
        super().__init__()
        self._lock = lock
        self._unwanted = unwanted

    @property
    def possible(self) -> bool:
        return True

    @property
    def due(self) -> bool:
        return self._lock._calls > 0 or self._unwanted()

    def check(self) -> None:
        """Raises :class:`CallWaits` if the work must end now."""
        if self.due:
            raise CallWaits


@dataclass(eq=False)
class _Holder:
    """Who has the lock. ``reset`` takes it out of :data:`_holders` again."""

    thread: int = field(default_factory=threading.get_ident)
    reset: Token[tuple[_Holder, ...]] | None = None


_holders: ContextVar[tuple[_Holder, ...]] = ContextVar("semshare_holders", default=())
"""The holders inside of which code runs, for example a caller's logits processor. Threads of a request inherit it."""


class ModelLock:
    """The lock of one model: ``with lock:`` or ``with lock.hold(interrupt):``.

    Code that runs inside of a holder gets an error instead of the lock, for it would wait for its own end.
    """

    def __init__(self, model: PreTrainedModel | None = None) -> None:
        self._model = None if model is None else weakref.ref(model)
        self._changed = threading.Condition(forking.whole(threading.RLock()))
        self._holder: _Holder | None = None
        self._calls = 0  # requests that run or wait
        forking.renewed(self._after_fork)

    @contextmanager
    def hold(self, interrupt: Interrupt) -> Iterator[None]:
        """Hold the lock. ``interrupt`` may end the wait for it; others who wait are not disturbed."""
        self._acquire(interrupt)
        try:
            yield
        finally:
            self.__exit__()

    def __enter__(self) -> ModelLock:
        self._acquire(NEVER)
        return self

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._calls -= 1
            self._release()

    @contextmanager
    def when_idle(self, unwanted: Callable[[], bool] = lambda: False) -> Iterator[Interrupt]:
        """Hold the lock as soon as no request runs or waits.

        Gives an interrupt, which raises :class:`CallWaits` as soon as a request waits or ``unwanted`` says True. Work
        that does not look at it is waited for: keep such work short.

        Raises:
            CallWaits: ``unwanted`` says True before the lock is free.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: self._holder is None and not self._calls, _UNWANTED_SECONDS):
                if unwanted():
                    raise CallWaits
            self._begin()
        try:
            yield _WhileIdle(self, unwanted)
        finally:
            with self._changed:
                self._release()

    def locked(self) -> bool:
        """Whether somebody holds the lock."""
        return self._holder is not None

    def _acquire(self, interrupt: Interrupt) -> None:
        with self._changed:
            if self._holder in _holders.get():
                raise NestedCallError(
                    "this call was made inside another call of the same model (by a logits processor, a hook or the "
                    "like) and would wait for that one's end for ever: make it before or after, or use another model."
                )
            self._calls += 1
            try:
                while not self._changed.wait_for(lambda: self._holder is None, interrupt.patience):
                    interrupt.check()
            except BaseException:  # the wait was interrupted
                self._calls -= 1
                self._changed.notify_all()
                raise
            self._begin()

    def _begin(self) -> None:
        self._holder = _Holder()
        self._holder.reset = _holders.set((*_holders.get(), self._holder))

    def _release(self) -> None:
        holder, self._holder = self._holder, None
        self._changed.notify_all()
        if holder is not None and holder.reset is not None:
            _holders.reset(holder.reset)

    def _after_fork(self) -> None:
        """In a forked child the requests of other threads are gone. The request that forked goes on there."""
        own = self._holder is not None and self._holder.thread == threading.get_ident()
        model = None if self._model is None else self._model()
        if self._holder is not None and not own:
            self._holder = None
            if model is not None:
                _remove_hooks(model)
        self._calls = int(own)


def _remove_hooks(model: PreTrainedModel) -> None:
    """Remove our hooks by their module: a request that was cut off may have laid one and not kept its handle."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook.__module__.startswith("semshare_core.")]:
                del hooks[key]


_locks: weakref.WeakKeyDictionary[PreTrainedModel, ModelLock] = weakref.WeakKeyDictionary()
_locks_guard = forking.whole(threading.Lock())


def lock_of(model: PreTrainedModel) -> ModelLock:
    """The lock of ``model``. Engines that share a model share its lock, because hooks sit on the model."""
    with _locks_guard:
        if model not in _locks:
            _locks[model] = ModelLock(model)
        return _locks[model]
