"""A generator that computes, consumed from an event loop that must not wait for it."""

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
    make: Callable[[threading.Event], Generator[T, None, None]], unread: Callable[[T], None] = lambda _: None
) -> AsyncGenerator[T, None]:
    """Run the generator that ``make`` returns in one thread of its own and hand its items to the event loop.

    One thread for the whole run: torch's grad and inference modes belong to a thread, and the autocast of whoever
    awaits is entered there. Closing this generator, or cancelling the task that awaits it, returns at once and sets the
    event that ``make`` got; the thread closes its generator at the next item and ends. Whoever else sets that event
    ends the items, too. ``unread`` is called, in one thread or the other, with the items that nobody takes any more.
    """
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    waiting: deque[T | _End] = deque()
    handing_on = threading.Lock()
    left = False
    closed = threading.Event()
    autocast = Autocast.here()

    def post(item: T | _End) -> None:
        with handing_on:
            late = left
            if not late:
                waiting.append(item)
        if late and not isinstance(item, _End):
            unread(item)
        try:
            loop.call_soon_threadsafe(arrived.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            closed.set()

    def work() -> None:
        try:
            with autocast.again(), closing(make(closed)) as items:
                while not closed.is_set() and not isinstance(item := next(items, _End()), _End):
                    post(item)
            post(_End())
        except BaseException as error:  # it belongs to the one who awaits
            post(_End(error))

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="semshare-async", daemon=True).start()
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
        with handing_on:
            left = True
        for rest in waiting:
            if not isinstance(rest, _End):
                unread(rest)
