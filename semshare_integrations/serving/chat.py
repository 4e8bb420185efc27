"""``/v1/chat/completions``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import ConfigDict, FailFast, Field
from starlette.responses import JSONResponse, Response

from semshare_core import SemShareEngine
from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.chat_call import call_id, openai_call
from semshare_integrations.adapter.openai_messages import to_template
from semshare_integrations.serving.answers import Ask, Ending, Part, gathered
from semshare_integrations.serving.events import DONE, data_event, event_stream
from semshare_integrations.serving.exchange import exchange_of
from semshare_integrations.serving.parsing import Objects, Strict, invalid, parsed
from semshare_integrations.serving.requests import BYTES_PER_TOKEN, Sampled, check_count, check_model
from semshare_integrations.serving.server import Server, caller_of, server_of
from semshare_integrations.serving.usage import openai_usage, semshare_object
from semshare_integrations.tools import Reply

router = APIRouter()


class Function(Strict):
    """A tool's function."""

    model_config = ConfigDict(extra="ignore", strict=True)

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool that the model may call."""

    model_config = ConfigDict(extra="ignore", strict=True)  # Anthropic's cache_control stands here, too

    type: Literal["function"]
    function: Function


class ChatRequest(Sampled):
    """OpenAI's request for a chat completion, with vLLM's additions."""

    messages: Objects = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: Annotated[list[Tool], FailFast()] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = False
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # hints
    modalities: Annotated[list[Literal["text"]], Field(max_length=8)] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prediction: Any = None
    store: bool | None = None

    def check(self, max_choices: int, engine: SemShareEngine) -> None:
        """Raises :class:`RequestError` for fields that do not fit each other."""
        super().check(max_choices, engine)
        check_count(self.messages, engine, "messages")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs is only allowed when logprobs is true.", "top_logprobs")
        if self.chat_template_kwargs:
            raise invalid(
                "chat_template_kwargs is not supported: the chat template has its default settings.",
                "chat_template_kwargs",
                "unsupported_parameter",
            )
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise invalid("tool_choice is only allowed when tools are specified.", "tool_choice")
        if self.ignore_eos and (self.tools or self.response_format):
            raise invalid(
                "ignore_eos is not allowed with tools or response_format: their answers end where they are complete.",
                "ignore_eos",
            )

    def asks(self, server: Server, request: Request) -> list[Ask]:
        """The answers that the client wants."""
        limit = self.max_completion_tokens or self.max_tokens or server.settings.default_max_tokens
        settings = self.engine_settings(server.engine, caller_of(request), limit)

        def make() -> ChatCall:
            return ChatCall.of(
                server.engine,
                to_template(self.messages),
                tools=[tool.model_dump(exclude_none=True) for tool in self.tools],
                tool_choice=self.tool_choice,
                parallel_tool_calls=self.parallel_tool_calls,
                response_format=self.response_format,
            )

        return [
            Ask(
                make,
                {**settings, "seed": self.seed_of(choice)},
                "chat",
                choice,
                (self.top_logprobs or 0) if self.logprobs else None,
                self.processors(server.engine),
            )
            for choice in range(self.n)
        ]


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answer a chat."""
    server, exchange = server_of(request), exchange_of(request)
    body = await parsed(request, ChatRequest)
    check_model(body.model, server.settings.model)
    body.check(server.settings.max_choices, server.engine)
    asks = body.asks(server, request)
    size = len(await request.body()) // BYTES_PER_TOKEN + sum(ask.settings["max_new_tokens"] for ask in asks)
    parts = server.answers.start(asks, size, exchange)
    completion = Completion(body, server.settings.model)
    if not body.stream:
        return JSONResponse(completion.whole(await gathered(parts)))
    return await event_stream(
        parts,
        exchange,
        begin=completion.begin(),
        convert=completion.chunks,
        end=completion.end,
        error=lambda told: data_event(told.openai()),
    )


class Completion:
    """One response, whole or in chunks."""

    def __init__(self, body: ChatRequest, model: str) -> None:
        self._body = body
        self._head = {
            "id": f"chatcmpl-{body.request_id or uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._endings: list[Ending] = []

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The response without streaming."""
        choices = []
        for index in range(self._body.n):
            own = [part for part in parts if part.index == index]
            ending = own[-1].ending
            assert ending is not None
            self._endings.append(ending)
            calls = _calls(ending.reply)
            text = reply_text(ending.reply)
            message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
            message["refusal"] = None
            if calls:
                message["tool_calls"] = calls
            logprobs = [token.openai() for part in own for token in part.logprobs]
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": {"content": logprobs, "refusal": None} if self._body.logprobs else None,
                    "finish_reason": ending.finish_reason,
                    **self._of_choice(ending),
                }
            )
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": openai_usage([ending.report for ending in self._endings]),
            "semshare": semshare_object(self._endings[0].report),
        }

    def begin(self) -> Iterator[str]:
        """The first chunks: who speaks."""
        for index in range(self._body.n):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def chunks(self, part: Part) -> Iterator[str]:
        """The chunks of a part: text, then calls, then the reason to end."""
        ending, text = part.ending, part.text
        logprobs = None
        if self._body.logprobs:
            logprobs = {"content": [token.openai() for token in part.logprobs], "refusal": None}
        if ending is not None:
            text += unread_text(ending.reply)
        if text or part.logprobs:
            yield self._chunk(part.index, {"content": text}, logprobs)
        if ending is None:
            return
        self._endings.append(ending)
        for number, call in enumerate(_calls(ending.reply)):
            # in two chunks: some clients lose a call whose arguments come with its name
            arguments = call["function"].pop("arguments")
            call["function"]["arguments"] = ""
            yield self._chunk(part.index, {"tool_calls": [{"index": number, **call}]})
            yield self._chunk(part.index, {"tool_calls": [{"index": number, "function": {"arguments": arguments}}]})
        yield self._chunk(part.index, {}, None, ending)

    def end(self) -> Iterator[str]:
        """The usage, if it was asked for, and the mark of the end."""
        if self._body.include_usage:
            usage = openai_usage([ending.report for ending in self._endings])
            yield data_event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
        yield DONE

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Any = None, ending: Ending | None = None) -> str:
        reason = None if ending is None else ending.finish_reason
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        if self._body.include_usage:
            chunk["usage"] = None
        if ending is not None:
            choice |= self._of_choice(ending)
            chunk["semshare"] = semshare_object(ending.report)
        return data_event(chunk)

    def _of_choice(self, ending: Ending) -> dict[str, Any]:
        """Each of several choices has a report of its own."""
        return {"semshare": semshare_object(ending.report)} if self._body.n > 1 else {}


def reply_text(reply: Reply) -> str:
    """The text of a reply. Calls that cannot be read stay text, if there are no others."""
    return reply.text + unread_text(reply)


def unread_text(reply: Reply) -> str:
    """What :func:`reply_text` adds to the text."""
    return "" if reply.calls else "".join(bad.text for bad in reply.invalid)


def _calls(reply: Reply) -> list[dict[str, Any]]:
    """The calls in OpenAI's form, each with an id of its own."""
    return [openai_call(call.name, json.dumps(call.arguments, ensure_ascii=False), call_id()) for call in reply.calls]
