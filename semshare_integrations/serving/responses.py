"""``/v1/responses``: OpenAI's newer form of a chat, in its common subset. Nothing is kept between requests."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.chat_call import call_id
from semshare_integrations.adapter.openai_messages import to_template
from semshare_integrations.serving.answers import Ask, Ending, Part, gathered
from semshare_integrations.serving.chat import reply_text, unread_text
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.events import event_stream, named_event
from semshare_integrations.serving.exchange import exchange_of
from semshare_integrations.serving.parsing import parsed
from semshare_integrations.serving.requests import BYTES_PER_TOKEN, check_count, check_model
from semshare_integrations.serving.responses_request import ResponsesRequest
from semshare_integrations.serving.server import Server, caller_of, server_of
from semshare_integrations.serving.usage import semshare_object

router = APIRouter()


@router.post("/v1/responses")
async def responses(request: Request) -> Response:
    """Answer a chat."""
    server, exchange = server_of(request), exchange_of(request)
    body = await parsed(request, ResponsesRequest)
    check_model(body.model, server.settings.model)
    body.check()
    if not isinstance(body.input, str):
        check_count(body.input, server.engine, "input")
    limit = body.max_output_tokens or server.settings.default_max_tokens
    settings = body.engine_settings(server.engine, caller_of(request), limit)
    ask = Ask(lambda: _call(server, body), settings, "chat")
    size = len(await request.body()) // BYTES_PER_TOKEN + settings["max_new_tokens"]
    parts = server.answers.start([ask], size, exchange)
    answer = ResponseAnswer(body, server.settings.model)
    if not body.stream:
        return JSONResponse(answer.whole(await gathered(parts)))
    return await event_stream(
        parts, exchange, begin=answer.begin(), convert=answer.events, end=tuple, error=answer.error
    )


def _call(server: Server, body: ResponsesRequest) -> ChatCall:
    return ChatCall.of(
        server.engine,
        to_template(body.messages()),
        tools=[tool.nested() for tool in body.tools],
        tool_choice=body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=body.text.response_format(),
    )


class ResponseAnswer:
    """One response, whole or in events."""

    def __init__(self, body: ResponsesRequest, model: str) -> None:
        self._body = body
        self._model = model
        self._id = f"resp_{body.request_id or uuid4().hex}"
        self._created = int(time.time())
        self._message = f"msg_{uuid4().hex}"
        self._number = -1
        self._text = ""
        self._begun = False

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The response without streaming."""
        ending = parts[-1].ending
        assert ending is not None
        text, calls = reply_text(ending.reply), _calls(ending)
        output = [self._item(text, _status(ending))] if text or not calls else []
        return self._response([*output, *calls], ending)

    def begin(self) -> Iterator[str]:
        """The events before the first part."""
        yield self._event("response.created", response=self._response([]))
        yield self._event("response.in_progress", response=self._response([]))

    def events(self, part: Part) -> Iterator[str]:
        """The events of a part."""
        ending, text = part.ending, part.text
        calls = _calls(ending) if ending is not None else []
        if ending is not None:
            text += unread_text(ending.reply)
        if text or (ending is not None and not calls):
            yield from self._text_events(text)
        if ending is None:
            return
        output = []
        if self._begun:
            item = self._item(self._text, _status(ending))
            yield from self._text_done(item)
            output.append(item)
        for call in calls:
            yield from self._call_events(call, len(output))
            output.append(call)
        response = self._response(output, ending)
        yield self._event(f"response.{response['status']}", response=response)

    def error(self, told: RequestError) -> str:
        """The event of an error."""
        return self._event("error", code=told.code, message=told.message, param=told.param)

    def _text_events(self, text: str) -> Iterator[str]:
        place = {"item_id": self._message, "output_index": 0, "content_index": 0}
        if not self._begun:
            self._begun = True
            item = {**self._item("", "in_progress"), "content": []}
            yield self._event("response.output_item.added", output_index=0, item=item)
            yield self._event("response.content_part.added", **place, part=_part(""))
        if text:
            self._text += text
            yield self._event("response.output_text.delta", **place, delta=text, logprobs=[])

    def _text_done(self, item: dict[str, Any]) -> Iterator[str]:
        place = {"item_id": self._message, "output_index": 0, "content_index": 0}
        yield self._event("response.output_text.done", **place, text=self._text, logprobs=[])
        yield self._event("response.content_part.done", **place, part=_part(self._text))
        yield self._event("response.output_item.done", output_index=0, item=item)

    def _call_events(self, call: dict[str, Any], index: int) -> Iterator[str]:
        place = {"item_id": call["id"], "output_index": index}
        begun = {**call, "arguments": "", "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event("response.function_call_arguments.delta", **place, delta=call["arguments"])
        yield self._event(
            "response.function_call_arguments.done", **place, name=call["name"], arguments=call["arguments"]
        )
        yield self._event("response.output_item.done", output_index=index, item=call)

    def _event(self, kind: str, **content: Any) -> str:
        self._number += 1
        return named_event({"type": kind, "sequence_number": self._number, **content})

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return {
            "id": self._message,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_part(text)],
        }

    def _response(self, output: list[dict[str, Any]], ending: Ending | None = None) -> dict[str, Any]:
        """The response as it is; without an ``ending`` it is in progress."""
        body = self._body
        status = "in_progress" if ending is None else _status(ending)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self._model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in body.tools],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None if ending is None else _usage(ending),
            **({} if ending is None else {"semshare": semshare_object(ending.report)}),
        }


def _status(ending: Ending) -> str:
    """Of the response, and of its text."""
    return "incomplete" if ending.finish_reason == "length" else "completed"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _calls(ending: Ending) -> list[dict[str, Any]]:
    return [
        {
            "id": f"fc_{uuid4().hex}",
            "type": "function_call",
            "status": "completed",
            "call_id": call_id(),
            "name": call.name,
            "arguments": json.dumps(call.arguments, ensure_ascii=False),
        }
        for call in ending.reply.calls
    ]


def _usage(ending: Ending) -> dict[str, Any]:
    report = ending.report
    return {
        "input_tokens": report.prompt_tokens,
        "input_tokens_details": {"cached_tokens": report.lossless_prefix_tokens, "cache_write_tokens": 0},
        "output_tokens": report.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": report.prompt_tokens + report.generated_tokens,
    }
