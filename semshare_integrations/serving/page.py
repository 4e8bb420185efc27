"""``/``: a page that shows what is happening, and the events that keep it up to date."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from semshare_core.report.token_strip import SOURCES
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.events import data_event
from semshare_integrations.serving.server import caller_of, server_of

router = APIRouter()

_SECONDS = 1.0
_LONGEST = 60.0  # seconds; then the browser asks again. A server that nobody tells to drain stops within that time
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'"  # no site lays it under its own buttons
)


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    _check(request)
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    filled = {name: colour for name, _, colour in SOURCES} | {"model": html.escape(server_of(request).settings.model)}
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], text)
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})


@router.get("/state")
async def state(request: Request) -> Response:
    """The state, each second, as long as somebody looks."""
    _check(request)
    server, gate = server_of(request), request.app.state.gate

    async def events() -> AsyncIterator[str]:
        end = time.monotonic() + _LONGEST
        while not gate.draining and time.monotonic() < end:
            yield data_event(await asyncio.to_thread(server.live.state, server.admission, server.engine))
            await asyncio.sleep(_SECONDS)
        yield "event: again\ndata: 1\n\n"  # the browser's own way back takes seconds, and looks like an error

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _check(request: Request) -> None:
    """Raises :class:`RequestError` unless the caller may see the requests of all."""
    server, caller = server_of(request), caller_of(request)
    if not caller.operator:
        how = (
            "send the operator's key" if server.keys.public_namespace else "start the server with SEMSHARE_OPERATOR_KEY"
        )
        raise RequestError(f"The page shows the requests of all: {how}.", 403, code="permission_denied")
