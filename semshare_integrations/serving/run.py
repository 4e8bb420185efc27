"""Uvicorn's server, which tells the gate when it is about to stop."""

from __future__ import annotations

import socket
from types import FrameType
from typing import Any

import uvicorn

from semshare_core.errors import ConfigError
from semshare_integrations.serving.doors import is_loopback
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
            )
        )
        try:
            self._socket: socket.socket = self.config.bind_socket()
        except SystemExit:  # uvicorn has logged why
            raise ConfigError(f"{host}:{port} cannot be listened on: name another --port or --host.") from None

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

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second. Whoever sets ``should_exit`` stops the server as a signal does."""
        done = await super().on_tick(counter)
        self._gate.draining = self._gate.draining or done
        return done

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for SIGINT and SIGTERM."""
        self._gate.draining = True
        super().handle_exit(sig, frame)
