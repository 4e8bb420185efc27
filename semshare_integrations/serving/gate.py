"""What every request passes: its id, its key, its size, the log; and its end, if the client leaves."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import traceback
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semshare_integrations.serving.doors import check_host, check_origin
from semshare_integrations.serving.errors import CLIENT_CLOSED, NO_RETRY, RequestError, request_error
from semshare_integrations.serving.exchange import LOG, Exchange
from semshare_integrations.serving.keys import Caller, Keys
from semshare_integrations.serving.metrics import Metrics
from semshare_integrations.serving.settings import ServeSettings

_FREE = ("/health",)  # for load balancers, which have no key
_BODY_SECONDS = 60.0  # for a whole body to come
_BODIES = 8  # so many of the largest size may be there at once
_SLACK = 15.0  # seconds behind the time limit: the engine's own error comes first
_PAGES = ("/", "/state")  # for browsers, which ask for a name and a password
_WHILE_DRAINING = ("/health", "/ready", "/metrics")


class _ClientLeft(Exception):
    """Nobody waits for the response any more."""


class Gate:
    """An ASGI application around the routes.

    Attributes:
        draining: no new work is taken, because the server is about to stop.
        loopback: the server listens to its own machine alone, and must be asked as that.
    """

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics, settings: ServeSettings) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._settings = settings
        self._bodies = 0  # bytes of all requests that are read or answered
        self.draining = self.loopback = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = Exchange.of(scope["method"], _printable(scope["path"]), headers)
        response = _Response(send, exchange)
        try:
            async with exchange.closing:
                await self._answer(scope, receive, headers, exchange, response)
        except _ClientLeft:
            exchange.failure = exchange.failure or "client_left"
            exchange.status = CLIENT_CLOSED if not response.began else exchange.status
        except asyncio.CancelledError:  # the time to end in is over; what waited for the thread has waited
            exchange.failure = "shutting_down"
            if not response.began:
                await self._refuse(_stopping(), exchange, response)
        finally:
            self._metrics.answered(_route(scope), exchange.status)
            exchange.log()

    async def _answer(
        self, scope: Scope, receive: Receive, headers: Headers, exchange: Exchange, response: _Response
    ) -> None:
        try:
            if self.loopback:
                check_host(headers, self._settings.hosts)
            if exchange.path not in _FREE:
                exchange.caller = self._caller(exchange.path, headers)
            if self.draining and exchange.path not in _WHILE_DRAINING:
                raise _stopping()
            check_origin(exchange.method, headers)
            body = await self._timed_body(receive, headers, exchange)
            scope.setdefault("state", {})["exchange"] = exchange
            await self._while_connected(scope, receive, response, body, exchange)
        except Exception as error:
            if isinstance(error, _ClientLeft):
                raise
            await self._refuse(error, exchange, response)

    async def _while_connected(
        self, scope: Scope, receive: Receive, response: _Response, body: bytes, exchange: Exchange
    ) -> None:
        """Run the application, and cancel it as soon as the client disconnects. Raises :class:`_ClientLeft` then.

        It is cancelled, too, when its time is over. A client that does not read what it asked for has left as well.
        Who has got nothing yet is told at once: what the application has in a thread may go on for a while.
        """
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        never = asyncio.Event()

        async def give() -> Message:
            if unread:
                return unread.pop()
            await never.wait()
            raise AssertionError("never")

        async def disconnected() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        deadline = self._settings.timeout + _SLACK
        work = asyncio.ensure_future(self._app(scope, give, response))
        watch = asyncio.ensure_future(disconnected())
        try:
            await asyncio.wait((work, watch), timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
            left = not work.done() and not response.complete  # a complete response looks like a disconnect, too
            if left:
                work.cancel()
                if not watch.done() and not response.began:
                    await self._refuse(_late(self._settings.timeout), exchange, response)
            try:
                await work
            except asyncio.CancelledError:
                if left and not response.complete:
                    raise _ClientLeft from None
                if not left:
                    raise
        finally:
            for task in (work, watch):
                task.cancel()
            await asyncio.gather(work, watch, return_exceptions=True)

    def _caller(self, path: str, headers: Headers) -> Caller:
        """Who asks. Raises :class:`RequestError`."""
        try:
            return self._keys.caller(_key(headers, path))
        except RequestError as error:
            if path in _PAGES:
                error.headers = {"WWW-Authenticate": 'Basic realm="The operator key, as password"'}
            raise

    async def _refuse(self, error: Exception, exchange: Exchange, response: _Response) -> None:
        told = request_error(error)
        exchange.failure = exchange.failure or told.code or told.kind
        if told.status == 500:
            log_failure(error, exchange)
        if response.complete:
            return
        if response.began:  # too late for a status; the connection is closed, which says that the body is cut off
            raise _ClientLeft
        await send_json(response, told.status, told.body(exchange.path), dict(told.headers))

    async def _timed_body(self, receive: Receive, headers: Headers, exchange: Exchange) -> bytes:
        """The request's body. Raises :class:`RequestError` if it is too large, or comes too slowly."""
        try:
            return await asyncio.wait_for(self._body(receive, headers, exchange), _BODY_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            raise RequestError(
                f"The request had not come whole after {_BODY_SECONDS:g} seconds. Please send it again.",
                408,
                code="request_timeout",
                headers={"Connection": "close"},
            ) from None

    async def _body(self, receive: Receive, headers: Headers, exchange: Exchange) -> bytes:
        """The request's body. Raises :class:`RequestError` if it is too large, or all together are."""
        body = bytearray()
        exchange.closing.callback(lambda: self._forget(len(body)))
        announced = headers.get("content-length", "0")
        size = int(announced) if announced.isdecimal() else 0
        while True:
            if max(size, len(body)) > self._settings.max_body_bytes:
                raise RequestError(
                    f"The request has more than {self._settings.max_body_bytes} bytes, which is this server's limit.",
                    413,
                    code="request_too_large",
                    headers={"Connection": "close"},
                )
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            more = message.get("body", b"")
            if len(more) + self._bodies > _BODIES * self._settings.max_body_bytes:
                raise RequestError(
                    "The server has too many large requests at once. Please try again in a second.",
                    429,
                    "rate_limit_error",
                    "rate_limit_exceeded",
                    headers={"Retry-After": "1", "Connection": "close"},
                )
            body += more
            self._bodies += len(more)
            if not message.get("more_body", False) and len(body) <= self._settings.max_body_bytes:
                return bytes(body)

    def _forget(self, size: int) -> None:
        self._bodies -= size


class _Response:
    """Passes a response on, and remembers how far it came."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange
        self.began = self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            self._exchange.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._exchange.id.encode())]
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)


def _late(timeout: float) -> RequestError:
    message = f"The request took longer than the {timeout:g} seconds that it has here."
    return RequestError(message, 504, "server_error", "timeout", headers=NO_RETRY)


def _stopping() -> RequestError:
    headers = {"Retry-After": "5"}
    return RequestError("The server is shutting down.", 503, "server_error", "shutting_down", headers=headers)


def log_failure(error: BaseException, exchange: Exchange) -> None:
    """Log where an error arose. Its message is left out, because it may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    LOG.error("id=%s failed with a %s:\n%s", exchange.id, type(error).__qualname__, where)


async def send_json(send: Send, status: int, body: Any, headers: dict[str, str]) -> None:
    """A whole response."""
    content = json.dumps(body).encode()
    named = {**headers, "content-type": "application/json", "content-length": str(len(content))}
    lines = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in named.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": content})


def _printable(path: str) -> str:
    """A path for one line of a log."""
    return quote(path, safe="/:._-")[:256]


def _key(headers: Headers, path: str) -> str | None:
    """OpenAI's clients send a bearer token, Anthropic's a header of their own, browsers a password.

    A password is taken for the pages alone: a browser that has it sends it wherever any site's page tells it to.
    """
    kind, _, key = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    if kind.lower() == "basic" and path in _PAGES:
        with suppress(binascii.Error, UnicodeDecodeError):
            return base64.b64decode(key, validate=True).decode().partition(":")[2]
    return headers.get("x-api-key")


def _route(scope: Scope) -> str:
    """The route's own path, so that clients cannot fill the metrics with names."""
    return str(getattr(scope.get("route"), "path", "other"))
