"""Work in threads, which nobody can cancel: whoever is cancelled waits for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_full(work: asyncio.Future[T], on_cancel: Callable[[], Any] = lambda: None) -> T:
    """What ``work`` gives. If the caller is cancelled, ``on_cancel`` is called, and ``work`` still goes to its end."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        on_cancel()
        await ended(work)
        raise


async def ended(work: asyncio.Future[Any]) -> None:
    """Wait until ``work`` has ended, however often the waiting is cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
