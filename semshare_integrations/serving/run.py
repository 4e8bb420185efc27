"""Uvicorn's server, which tells the gate when it is about to stop."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from semshare_core.errors import ConfigError
from semshare_integrations.serving.doors import is_loopback
from semshare_integrations.serving.exchange import LOG
from semshare_integrations.serving.gate import Gate

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "semshare.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn.access": {"level": "WARNING"},  # the gate's line says more
    },
}


_HEAD_SECONDS = 20.0  # for a whole head to come
_MOST_CONNECTIONS = 1000  # beyond them uvicorn answers 503


class PunctualProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Closes a connection on which no whole head of a request comes in time. uvicorn would wait for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(_HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Something came. The time begins anew where a request has been answered, and another begins."""
        super().data_received(data)
        waiting = self.cycle is None or self.cycle.response_complete
        if not waiting:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._stop()
        super().connection_lost(exc)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class DrainingServer(uvicorn.Server):
    """Listens on ``host`` and ``port`` from when it serves an application until a signal comes.

    Then it takes no more requests, and stops when those that it has are answered, or after ``grace`` seconds.

    Raises:
        ConfigError: the address cannot be had.
    """

    def __init__(self, host: str, port: int, grace: int) -> None:
        super().__init__(
            uvicorn.Config(
                "",  # serve_app() names it
                host,
                port,
                log_config=LOGGING,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=grace,
                limit_concurrency=_MOST_CONNECTIONS,
                http=PunctualProtocol,
            )
        )
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise ConfigError(
                f"{host}:{port} cannot be listened on ({error.strerror}): name another --port or --host."
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    def serve_app(self, gate: Gate) -> None:
        """Serve until a signal comes, or ``should_exit`` is set."""
        self._gate = gate
        gate.loopback = is_loopback(self.config.host)
        self.config.app = gate
        self.run([self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        if self.started:
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            LOG.info("answers at http://%s:%d", host, self.port)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Whoever sets ``should_exit`` stops the server as a signal does."""
        done = await super().on_tick(counter)
        self._gate.draining = self._gate.draining or done
        return done

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGINT and SIGTERM."""
        self._gate.draining = True
        super().handle_exit(sig, frame)
