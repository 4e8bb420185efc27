"""What becomes of locks, threads and half-done work when the process forks (gunicorn --preload, multiprocessing).

The child has one thread, the one that forked. What other threads held in the parent nobody would ever give back there,
and what they were in the middle of stays as it was. So a fork waits a moment until state is whole (:func:`whole`),
locks are free in the child (:func:`free`), and whoever has threads or work under way begins anew (:func:`renewed`).
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

_WAITED_SECONDS = 1.0  # at most, for those who hold locks
_POLLED_SECONDS = 0.001

_forking = threading.RLock()  # two threads may fork at once
_registering = threading.Lock()
_whole: WeakSet[Any] = WeakSet()
_free: WeakSet[Any] = WeakSet()
_renewals: set[WeakMethod[Callable[[], None]]] = set()
_beginnings: list[Callable[[], None]] = []
_under_way: dict[object, tuple[int, Callable[[], None]]] = {}
_held: list[Any] = []  # while a fork is under way, by the thread that forks
_torn: WeakSet[Any] = WeakSet()


def whole(lock: LOCK) -> LOCK:
    """A fork waits until ``lock`` is free, so that the child finds what it guards whole: held for moments only."""
    with _registering:
        _whole.add(lock)
    return lock


def free(lock: LOCK) -> LOCK:
    """``lock`` is free in a child, whoever holds it; no fork waits for it. What it guards is never half-changed."""
    with _registering:
        _free.add(lock)
    return lock


def renewed(renew: Callable[[], None]) -> None:
    """Call ``renew``, a method whose object is not kept alive by this, in every child, before anything else is done."""
    with _registering:
        _renewals.add(WeakMethod(renew, _renewals.discard))


def in_children(begin: Callable[[], None]) -> None:
    """Call ``begin`` in every child."""
    _beginnings.append(begin)


def torn(lock: Any) -> bool:
    """In a child: whether somebody held ``lock`` for too long, so that what it guards may be half-changed."""
    return lock in _torn


@contextmanager
def undone(undo: Callable[[], None]) -> Iterator[None]:
    """``undo`` is called at the end of the context; in a child also where the thread that was inside is gone.

    Enter it before the change that is to be undone.
    """
    key = object()
    _under_way[key] = threading.get_ident(), undo
    try:
        yield
    finally:
        undo()
        del _under_way[key]


def _before() -> None:
    """Hold all locks of :func:`whole`; none is waited for while another is held, so that no order is needed."""
    _forking.acquire()
    with _registering:
        locks = list(_whole)
    give_up = time.monotonic() + _WAITED_SECONDS
    while True:
        late = time.monotonic() > give_up
        for lock in locks:
            if lock.acquire(blocking=False):
                _held.append(lock)
            elif not late:
                break
        else:
            break
        _give_back()
        time.sleep(_POLLED_SECONDS)
    if _registering.acquire(timeout=_WAITED_SECONDS):
        _held.append(_registering)


def _give_back() -> None:
    while _held:
        _held.pop().release()


def _in_parent() -> None:
    _give_back()
    _forking.release()


def _in_child() -> None:
    held = set(map(id, _held))
    _in_parent()
    for lock in (*_whole, *_free, _registering):
        if id(lock) not in held:
            if lock in _whole:
                _torn.add(lock)
            lock._at_fork_reinit()  # as logging and concurrent.futures do
    for key, (thread, undo) in reversed(list(_under_way.items())):
        if thread != threading.get_ident():
            undo()
            del _under_way[key]
    with ExitStack() as everything:  # each is done, whatever becomes of the others
        everything.callback(_torn.clear)
        for begin in _beginnings:
            everything.callback(begin)
        for renewal in list(_renewals):
            if (renew := renewal()) is not None:
                everything.callback(renew)


with suppress(AttributeError):  # no forks on Windows
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
