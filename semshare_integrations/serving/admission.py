"""How many requests run and wait. First come, first served; what is too much is told to come again later."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from semshare_integrations.serving.errors import NO_RETRY, RequestError
from semshare_integrations.serving.settings import ServeSettings

_LONGEST_RETRY = 60  # seconds
_WEIGHT = 0.2  # of the last request in the mean time that a request takes


class Admission:
    """Places for requests. Used by one event loop.

    Attributes:
        running, waiting: requests that have a place, and that wait for one.
        tokens: of all of these.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._queue: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self.tokens = 0
        self._mean_seconds = 1.0

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    @asynccontextmanager
    async def place(self, tokens: int) -> AsyncIterator[float]:
        """A place for a request of ``tokens``. Gives the seconds that it waited.

        Raises:
            RequestError: 429: too many requests or tokens wait; 504: the wait was as long as a request may take.
        """
        settings, began = self._settings, time.monotonic()
        busy = self.running >= settings.max_running or bool(self._queue)
        if busy and len(self._queue) >= settings.max_waiting:
            raise self._too_much(f"{self.waiting} requests are waiting already")
        if self.tokens and self.tokens + tokens > settings.max_waiting_tokens:
            raise self._too_much(f"{self.tokens} tokens are waiting already, and this request has about {tokens}")
        self.tokens += tokens
        try:
            if busy:
                await self._turn()
            else:
                self.running += 1
            started = time.monotonic()
            try:
                yield started - began
            finally:
                self._mean_seconds += _WEIGHT * (time.monotonic() - started - self._mean_seconds)
                self._next()
        finally:
            self.tokens -= tokens

    async def _turn(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._settings.timeout)
        except BaseException as error:
            if turn.done():  # it got the place in this very moment
                self._next()
            else:
                self._queue.remove(turn)
            if isinstance(error, TimeoutError | asyncio.TimeoutError):
                raise RequestError(
                    f"The request has waited for {self._settings.timeout:g} seconds, which is all the time that it has "
                    "here. Ask when fewer others do, or start the server with a longer --timeout.",
                    504,
                    "server_error",
                    "timeout",
                    headers=NO_RETRY,
                ) from None
            raise

    def _next(self) -> None:
        """Give a place that is free now to the request that has waited longest."""
        if self._queue:
            self._queue.popleft().set_result(None)
        else:
            self.running -= 1

    def _too_much(self, why: str) -> RequestError:
        seconds = (self.waiting + 1) * self._mean_seconds / self._settings.max_running
        retry = min(max(1, round(seconds)), _LONGEST_RETRY)
        return RequestError(
            f"The server is busy: {why}. Please try again in {retry} s.",
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
            headers={"Retry-After": str(retry)},
        )
