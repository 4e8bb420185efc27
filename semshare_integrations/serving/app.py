"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError, SemShareError
from semshare_integrations.serving import chat, completions, messages, page, responses, status
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.answers import Answers
from semshare_integrations.serving.errors import RequestError, request_error
from semshare_integrations.serving.exchange import LOG, exchange_of
from semshare_integrations.serving.gate import Gate
from semshare_integrations.serving.keys import Keys
from semshare_integrations.serving.live import Live
from semshare_integrations.serving.metrics import Metrics
from semshare_integrations.serving.server import Server
from semshare_integrations.serving.settings import ServeSettings
from semshare_integrations.serving.spans import NoSpans, Spans
from semshare_integrations.tools import prepare

_LAST_SECONDS = 15.0


def make_app(
    engine: SemShareEngine, settings: ServeSettings, keys: Keys | None = None, spans: Spans | None = None
) -> Gate:
    """An application that serves ``engine``, for any ASGI server.

    When the server stops, the pool is written to its folder and closed. The application runs in one process and one
    event loop. ASGI tells nobody that a server is about to stop: set ``draining`` where yours says so, or streams of
    the page's state hold it up for a minute.

    Args:
        keys: who may ask; default: everybody.
        spans: records traces; default: nobody does.

    Raises:
        ConfigError: the keys have an operator, and the engine's pool has not their public namespace.
    """
    keys = keys or Keys()
    if keys.public_namespace not in (None, engine.pool.config.public_namespace):
        raise ConfigError(
            "an operator key needs a pool with its public namespace: "
            f"PoolConfig(public_namespace={keys.public_namespace!r})."
        )
    metrics, admission, live = Metrics(), Admission(settings), Live()
    metrics.observe(admission, engine)
    answers = Answers(engine, admission, metrics, live, spans or NoSpans(), settings.timeout)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        prepare(engine.model, engine.tokenizer)  # otherwise the first request with tools would block the event loop
        yield
        end = time.monotonic() + _LAST_SECONDS
        while admission.running and time.monotonic() < end:  # what was cut off ends within the time of one layer
            await asyncio.sleep(0.01)
        if admission.running:  # its thread still has the pool
            LOG.warning("a request does not end: the latest prompts may be missing in the pool's folder")
        else:
            await asyncio.to_thread(_close, engine)

    app = FastAPI(lifespan=life, openapi_url=None)  # whoever has no key gets no list of routes, either
    app.state.server = Server(
        engine, settings, keys, admission, metrics, answers, live, time.time(), asyncio.Semaphore(1)
    )
    for each in (RequestError, SemShareError, HTTPException, Exception):
        app.add_exception_handler(each, _answer_error)
    for router in (chat.router, completions.router, responses.router, messages.router, status.router, page.router):
        app.include_router(router)
    gate = Gate(app, keys, metrics, settings)
    app.state.gate = gate
    return gate


def _close(engine: SemShareEngine) -> None:
    """End the work in the background, and write the pool to its folder."""
    engine.healing.close()
    engine.canary.close()
    engine.pool.close()


async def _answer_error(request: Request, error: Exception) -> Response:
    """A response in the form of whose path was asked for."""
    exchange = exchange_of(request)
    if isinstance(error, HTTPException):
        error = _of_http(request, error)
    told = request_error(error)
    exchange.failure = told.code or told.kind
    return JSONResponse(told.body(request.url.path), told.status, dict(told.headers))


def _of_http(request: Request, error: HTTPException) -> RequestError:
    """An unknown path or method, in OpenAI's words."""
    message, code = str(error.detail), None
    if error.status_code == 404:
        message, code = f"Unknown request URL: {request.method} {request.url.path}.", "unknown_url"
    if error.status_code == 405:
        message = f"Not allowed to {request.method} on {request.url.path}."
    return RequestError(message, error.status_code, code=code, headers=error.headers or {})
