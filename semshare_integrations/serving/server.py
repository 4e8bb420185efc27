"""What all routes need."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi import Request

from semshare_core import SemShareEngine
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.answers import Answers
from semshare_integrations.serving.exchange import exchange_of
from semshare_integrations.serving.keys import Caller, Keys
from semshare_integrations.serving.live import Live
from semshare_integrations.serving.metrics import Metrics
from semshare_integrations.serving.settings import ServeSettings


@dataclass(frozen=True)
class Server:
    """The parts of a server that its routes share.

    Attributes:
        began: when the server started, in seconds of Unix time.
        parsing: who has it reads a large body.
    """

    engine: SemShareEngine
    settings: ServeSettings
    keys: Keys
    admission: Admission
    metrics: Metrics
    answers: Answers
    live: Live
    began: float
    parsing: asyncio.Semaphore


def server_of(request: Request) -> Server:
    """The server that got the request."""
    server = request.app.state.server
    assert isinstance(server, Server)
    return server


def caller_of(request: Request) -> Caller:
    """Who sent the request."""
    caller = exchange_of(request).caller
    assert caller is not None, "the gate knows every caller"
    return caller
