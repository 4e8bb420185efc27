"""What happens to locks, threads and half-done work when the process forks (gunicorn --preload, multiprocessing).

The child has one thread, the one that forked. Locks of other threads would stay locked there for ever, and what these
threads were changing would stay half-changed. So a fork waits a moment until state is whole (:func:`whole`), locks are
free in the child (:func:`free`), and objects that have threads or work under way begin anew (:func:`renewed`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar
from weakref import WeakMethod, WeakSet

LOCK = TypeVar("LOCK", bound=Any)  # threading.Lock and RLock have no common type

_WAITED_SECONDS = 1.0  # at most, for locks that others hold
_POLLED_SECONDS = 0.001

_forking = threading.RLock()  # two threads may fork at once
_registering = threading.Lock()
_whole: WeakSet[Any] = WeakSet()
_free: WeakSet[Any] = WeakSet()
_renewals: set[WeakMethod[Callable[[], None]]] = set()
_under_way: dict[object, tuple[int, Callable[[], None]]] = {}
_acquired: list[Any] = []  # while a fork is under way, by the thread that forks
_torn: WeakSet[Any] = WeakSet()


def whole(lock: LOCK) -> LOCK:
    """A fork waits until ``lock`` is free, so that what it guards is whole in the child. Hold it for moments only."""
    with _registering:
        _whole.add(lock)
    return lock


def free(lock: LOCK) -> LOCK:
    """``lock`` is free in a child, and no fork waits for it. Only for what is never half-changed."""
    with _registering:
        _free.add(lock)
    return lock


def renewed(renew: Callable[[], None]) -> None:
    """Call ``renew`` in every child before anything else. It is a method; this does not keep its object alive."""
    with _registering:
        _renewals.add(WeakMethod(renew, _renewals.discard))


def torn(lock: Any) -> bool:
    """In a child: whether another thread held ``lock`` for so long that what it guards may be half-changed."""
    return lock in _torn


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """Call ``undo`` at the end of the context. A child calls it too, if the thread inside the context is gone there.

    Enter the context before the change.
    """
    key = object()
    _under_way[key] = threading.get_ident(), undo
    try:
        yield
    finally:
        undo()
        del _under_way[key]


def _before() -> None:
    """Acquire all locks of :func:`whole`. No lock is waited for while another is held, so no order is needed."""
    _forking.acquire()
    with _registering:
        locks = list(_whole)
    give_up = time.monotonic() + _WAITED_SECONDS
    while True:
        late = time.monotonic() > give_up
        for lock in locks:
            if lock.acquire(blocking=False):
                _acquired.append(lock)
            elif not late:
                break
        else:
            break
        _release()
        time.sleep(_POLLED_SECONDS)
    if _registering.acquire(timeout=_WAITED_SECONDS):
        _acquired.append(_registering)


def _release() -> None:
    while _acquired:
        _acquired.pop().release()


def _in_parent() -> None:
    _release()
    _forking.release()


def _in_child() -> None:
    acquired = set(map(id, _acquired))
    _in_parent()
    for lock in (*_whole, *_free, _registering):
        if id(lock) not in acquired:
            if lock in _whole:
                _torn.add(lock)
            lock._at_fork_reinit()  # as logging and concurrent.futures do
    for key, (thread, undo) in reversed(list(_under_way.items())):
        if thread != threading.get_ident():
            undo()
            del _under_way[key]
    with ExitStack() as everything:  # an error of one does not stop the others
        everything.callback(_torn.clear)
        for renewal in list(_renewals):
            if (renew := renewal()) is not None:
                everything.callback(renew)


with suppress(AttributeError):  # no forks on Windows
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
