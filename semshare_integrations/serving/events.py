"""Server-sent events: how parts of an answer go out as they come."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any

from starlette.responses import StreamingResponse

from semshare_integrations.serving.answers import Part, failed
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.exchange import Exchange
from semshare_integrations.serving.gate import log_failure

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies would keep events back

DONE = "data: [DONE]\n\n"


def data_event(data: Any) -> str:
    """An event of OpenAI's completions. In ASCII: some clients take U+2028 and its like for ends of lines."""
    return f"data: {json.dumps(data)}\n\n"


def named_event(data: dict[str, Any]) -> str:
    """An event with its type as name, as OpenAI's responses and Anthropic's messages have it."""
    return f"event: {data['type']}\n{data_event(data)}"


async def event_stream(
    parts: AsyncGenerator[Part, None],
    exchange: Exchange,
    *,
    begin: Iterable[str],
    convert: Callable[[Part], Iterable[str]],
    end: Callable[[], Iterable[str]],
    error: Callable[[RequestError], str],
) -> StreamingResponse:
    """A response with the events of an answer.

    It begins when the first part is there: an error before that is a response with a status of its own.

    Args:
        begin: events before the first part.
        convert: the events of a part.
        end: events behind the last part.
        error: the event of an error behind the first part. It is the last one.
    """
    first = await anext(parts)

    async def events() -> AsyncIterator[str]:
        yield "".join([*begin, *convert(first)])
        try:
            async for part in parts:
                yield "".join(convert(part))
        except Exception as broken:
            told = failed(broken, exchange)
            if told.status == 500:
                log_failure(broken, exchange)
            yield error(told)
            return
        yield "".join(end())

    return StreamingResponse(events(), media_type="text/event-stream", headers=_HEADERS)
