"""Run a generator in a thread, and consume it from an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from semshare_core.model.autocast import Autocast

T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


async def in_thread(
    make: Callable[[threading.Event], Generator[T, None, None]],
    unread: Callable[[T], None] = lambda _: None,
    ended: Callable[[], None] = lambda: None,
) -> AsyncGenerator[T, None]:
    """Run the generator that ``make`` returns in its own thread, and yield its items to the event loop.

    One thread runs the whole generator, because torch's grad and inference modes belong to a thread. The thread enters
    the consumer's autocast. If the consumer closes this generator, or its task is cancelled, the event that ``make``
    got is set at once; the thread closes its generator at the next item. ``unread`` is called with each item that
    nobody took, in either thread. ``ended`` is called in the thread when its generator is closed.
    """
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    waiting: deque[T | _End] = deque()
    lock = threading.Lock()  # guards ``left`` and the end of ``waiting``
    left = False
    closed = threading.Event()
    autocast = Autocast.current()

    def post(item: T | _End) -> None:
        with lock:
            late = left
            if not late:
                waiting.append(item)
        if late and not isinstance(item, _End):
            unread(item)
        try:
            loop.call_soon_threadsafe(arrived.set)
        except RuntimeError:  # the loop is closed: nobody waits
            closed.set()

    def work() -> None:
        try:
            with autocast.applied(), closing(make(closed)) as items:
                while not closed.is_set() and not isinstance(item := next(items, _End()), _End):
                    post(item)
            post(_End())
        except BaseException as error:  # raised again in the consumer
            post(_End(error))
        finally:
            ended()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name="semshare-async", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no more threads: who waits for the end would wait forever
        ended()
        raise
    try:
        while True:
            while not waiting:
                arrived.clear()
                await arrived.wait()
            item = waiting.popleft()
            if isinstance(item, _End):
                break
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        with lock:
            left = True
        for rest in waiting:
            if not isinstance(rest, _End):
                unread(rest)
