"""``/v1/messages``: a chat as Anthropic's clients ask for it, in its common subset."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from semshare_core import SemShareEngine
from semshare_core.decode.sampling import end_tokens
from semshare_core.prompt.own_tokenizer import decode_ids
from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.openai_messages import to_template
from semshare_integrations.serving.answers import Ask, Ending, Part, gathered
from semshare_integrations.serving.chat import reply_text, unread_text
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.events import event_stream, named_event
from semshare_integrations.serving.exchange import exchange_of
from semshare_integrations.serving.messages_request import CountRequest, MessagesRequest
from semshare_integrations.serving.parsing import invalid, parsed
from semshare_integrations.serving.requests import BYTES_PER_TOKEN, check_model
from semshare_integrations.serving.server import caller_of, server_of
from semshare_integrations.serving.usage import semshare_object

router = APIRouter()


@router.post("/v1/messages")
async def messages(request: Request) -> Response:
    """Answer a chat."""
    server, exchange = server_of(request), exchange_of(request)
    body = await parsed(request, MessagesRequest)
    check_model(body.model, server.settings.model)
    body.check(server.engine)
    settings = body.engine_settings(server.engine, caller_of(request), body.max_tokens)
    ask = Ask(lambda: _call(server.engine, body), settings, "chat")
    size = len(await request.body()) // BYTES_PER_TOKEN + settings["max_new_tokens"]
    parts = server.answers.start([ask], size, exchange)
    answer = MessageAnswer(body, server.engine, server.settings.model)
    if not body.stream:
        return JSONResponse(answer.whole(await gathered(parts)))
    return await event_stream(
        parts, exchange, begin=answer.begin(), convert=answer.events, end=tuple, error=answer.error
    )


@router.post("/v1/messages/count_tokens")
async def count_tokens(request: Request) -> dict[str, int]:
    """How many tokens a chat has."""
    server = server_of(request)
    body = await parsed(request, CountRequest)
    check_model(body.model, server.settings.model)
    body.check(server.engine)

    def count(cancel: threading.Event, timeout: float) -> int:
        try:
            return len(server.engine.token_ids(_call(server.engine, body).prompt))
        except ValueError as error:
            raise invalid(str(error)) from None

    tokens = await server.answers.in_turn(count, len(await request.body()) // BYTES_PER_TOKEN)
    return {"input_tokens": tokens}


def _call(engine: SemShareEngine, body: CountRequest) -> ChatCall:
    choice = body.tool_choice
    return ChatCall.of(
        engine,
        to_template(body.openai_messages()),
        tools=[tool.openai() for tool in body.tools],
        tool_choice=None if choice is None else {"name": choice.name} if choice.type == "tool" else choice.type,
        parallel_tool_calls=choice is not None and not choice.disable_parallel_tool_use,
        response_format=body.output_config.response_format(),
    )


class MessageAnswer:
    """One message, whole or in events."""

    def __init__(self, body: MessagesRequest, engine: SemShareEngine, model: str) -> None:
        self._body = body
        self._engine = engine
        self._head = {
            "id": f"msg_{body.request_id or uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": model,
        }
        self._text_begun = False

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The message without streaming."""
        ending = parts[-1].ending
        assert ending is not None
        text, calls = reply_text(ending.reply), _calls(ending)
        content = [{"type": "text", "text": text}] if text or not calls else []
        return {
            **self._head,
            "content": [*content, *calls],
            **self._stop(ending),
            "usage": _usage(ending),
            "semshare": semshare_object(ending.report),
        }

    def begin(self) -> Iterator[str]:
        """The first event. The prompt's tokens are known at the end, and stand there."""
        usage = {"input_tokens": 0, "output_tokens": 0}
        message: dict[str, Any] = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield named_event({"type": "message_start", "message": message})

    def events(self, part: Part) -> Iterator[str]:
        """The events of a part."""
        ending, text = part.ending, part.text
        calls = _calls(ending) if ending is not None else []
        if ending is not None:
            text += unread_text(ending.reply)
        if (text or (ending is not None and not calls)) and not self._text_begun:
            self._text_begun = True
            yield _begin_block(0, {"type": "text", "text": ""})
        if text:
            yield _delta(0, {"type": "text_delta", "text": text})
        if ending is None:
            return
        if self._text_begun:
            yield named_event({"type": "content_block_stop", "index": 0})
        for index, call in enumerate(calls, start=int(self._text_begun)):
            yield _begin_block(index, {**call, "input": {}})
            yield _delta(index, {"type": "input_json_delta", "partial_json": json.dumps(call["input"])})
            yield named_event({"type": "content_block_stop", "index": index})
        yield named_event(
            {
                "type": "message_delta",
                "delta": self._stop(ending),
                "usage": _usage(ending),
                "semshare": semshare_object(ending.report),
            }
        )
        yield named_event({"type": "message_stop"})

    def error(self, told: RequestError) -> str:
        """The event of an error."""
        return named_event(told.anthropic())

    def _stop(self, ending: Ending) -> dict[str, Any]:
        """Why the message ended, and which stop sequence ended it."""
        if ending.reply.calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if ending.finish_reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        sequence = self._stopped_by(ending.token_ids)
        return {"stop_reason": "end_turn" if sequence is None else "stop_sequence", "stop_sequence": sequence}

    def _stopped_by(self, ids: list[int]) -> str | None:
        tokenizer = self._engine.tokenizer
        ends = [*end_tokens(self._engine.model.generation_config.eos_token_id), *end_tokens(tokenizer.eos_token_id)]
        if not self._body.stop_sequences or not ids or ids[-1] in ends:
            return None
        text = decode_ids(tokenizer, ids, special=True)
        found = [(text.find(sequence), sequence) for sequence in self._body.stop_sequences if sequence in text]
        return min(found)[1] if found else None


def _begin_block(index: int, block: dict[str, Any]) -> str:
    return named_event({"type": "content_block_start", "index": index, "content_block": block})


def _delta(index: int, delta: dict[str, Any]) -> str:
    return named_event({"type": "content_block_delta", "index": index, "delta": delta})


def _calls(ending: Ending) -> list[dict[str, Any]]:
    return [
        {"type": "tool_use", "id": f"toolu_{uuid4().hex[:24]}", "name": call.name, "input": call.arguments}
        for call in ending.reply.calls
    ]


def _usage(ending: Ending) -> dict[str, int]:
    """Anthropic counts cached tokens apart from the others."""
    report = ending.report
    cached = report.lossless_prefix_tokens
    return {
        "input_tokens": report.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": report.generated_tokens,
    }
