"""``/v1/completions``: a text, or token ids, goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import Field, SkipValidation, field_validator
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from semshare_core import SemShareEngine
from semshare_integrations.adapter import ChatCall
from semshare_integrations.serving.answers import Ask, Ending, Part, gathered
from semshare_integrations.serving.events import DONE, data_event, event_stream
from semshare_integrations.serving.exchange import exchange_of
from semshare_integrations.serving.logprobs import completion_logprobs
from semshare_integrations.serving.parsing import invalid, parsed
from semshare_integrations.serving.requests import BYTES_PER_TOKEN, Sampled, check_model, too_long
from semshare_integrations.serving.server import Server, caller_of, server_of
from semshare_integrations.serving.usage import openai_usage, semshare_object

router = APIRouter()

_DEFAULT_TOKENS = 16  # OpenAI's


Prompts = str | list[str] | list[int] | list[list[int]]


class CompletionRequest(Sampled):
    """OpenAI's request for a completion, with vLLM's additions."""

    prompt: SkipValidation[Prompts]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool = False
    best_of: int | None = None
    suffix: str | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _of_one_kind(cls, given: Any) -> Any:
        """The first element says what all must be. Pydantic would list a mistake for each element and each kind."""
        kind: type = type(given[0]) if isinstance(given, list) and given else str
        if isinstance(given, str) or (isinstance(given, list) and kind in (str, int) and _all(given, kind)):
            return given
        if isinstance(given, list) and kind is list and all(_all(each, int) for each in given):
            return given
        raise PydanticCustomError("prompt_type", "Input should be a text, token ids, or a list of either")

    @property
    def prompts(self) -> list[str | list[int]]:
        """One prompt, or several."""
        several = not isinstance(self.prompt, str) and bool(self.prompt) and not isinstance(self.prompt[0], int)
        return cast("list[str | list[int]]", self.prompt if several else [self.prompt] if self.prompt else [])

    def check(self, max_choices: int, engine: SemShareEngine) -> None:
        """Raises :class:`RequestError` for fields that do not fit each other."""
        super().check(max_choices, engine)
        if self.best_of not in (None, self.n):
            raise invalid("best_of is not supported: ask for n answers and choose.", "best_of", "unsupported_parameter")
        if self.suffix:
            raise invalid("suffix is not supported: models here only continue.", "suffix", "unsupported_parameter")
        if self.echo and self.logprobs is not None:
            raise invalid("echo with logprobs is not supported: prompts have none.", "echo", "unsupported_parameter")
        if not self.prompts:
            raise invalid("The prompt is empty: send a text or token ids.", "prompt")
        if len(self.prompts) > max_choices:
            raise invalid(f"This server takes at most {max_choices} prompts in one request.", "prompt")
        longest = max((len(prompt) for prompt in self.prompts if isinstance(prompt, list)), default=0)
        if longest > engine.context:
            raise too_long(f"The prompt has {longest} tokens", engine.context, "prompt")

    def asks(self, server: Server, request: Request) -> list[Ask]:
        """The answers that the client wants: to each prompt ``n``."""
        settings = self.engine_settings(server.engine, caller_of(request), self.max_tokens or _DEFAULT_TOKENS)
        return [
            Ask(
                partial(ChatCall.of_text, server.engine, prompt),
                {**settings, "seed": self.seed_of(choice)},
                "text_completion",
                number * self.n + choice,
                self.logprobs,
                self.processors(server.engine),
            )
            for number, prompt in enumerate(self.prompts)
            for choice in range(self.n)
        ]


def _all(given: Any, kind: type) -> bool:
    return isinstance(given, list) and all(type(each) is kind for each in given)  # True is no token


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """Continue a text."""
    server, exchange = server_of(request), exchange_of(request)
    body = await parsed(request, CompletionRequest)
    check_model(body.model, server.settings.model)
    body.check(server.settings.max_choices, server.engine)
    asks = body.asks(server, request)
    size = len(await request.body()) // BYTES_PER_TOKEN + sum(ask.settings["max_new_tokens"] for ask in asks)
    parts = server.answers.start(asks, size, exchange)
    completion = TextCompletion(body, server)
    if not body.stream:
        return JSONResponse(completion.whole(await gathered(parts)))
    return await event_stream(
        parts,
        exchange,
        begin=(),
        convert=completion.chunks,
        end=completion.end,
        error=lambda told: data_event(told.openai()),
    )


class TextCompletion:
    """One response, whole or in chunks."""

    def __init__(self, body: CompletionRequest, server: Server) -> None:
        self._body = body
        self._server = server
        self._head = {
            "id": f"cmpl-{body.request_id or uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": server.settings.model,
        }
        self._lengths: dict[int, int] = {}
        self._endings: list[Ending] = []

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The response without streaming."""
        choices = []
        for index in range(len(self._body.prompts) * self._body.n):
            own = [part for part in parts if part.index == index]
            ending = own[-1].ending
            assert ending is not None
            self._endings.append(ending)
            joined = Part(index, "".join(part.text for part in own), [t for part in own for t in part.logprobs], ending)
            choices.append(self._choice(joined))
        return {
            **self._head,
            "choices": choices,
            "usage": self._usage(),
            "semshare": semshare_object(self._endings[0].report),
        }

    def chunks(self, part: Part) -> Iterator[str]:
        """The chunk of a part."""
        chunk: dict[str, Any] = {**self._head, "choices": [self._choice(part)]}
        if self._body.include_usage:
            chunk["usage"] = None
        if part.ending is not None:
            self._endings.append(part.ending)
            chunk["semshare"] = semshare_object(part.ending.report)
        yield data_event(chunk)

    def end(self) -> Iterator[str]:
        """The usage, if it was asked for, and the mark of the end."""
        if self._body.include_usage:
            yield data_event({**self._head, "choices": [], "usage": self._usage()})
        yield DONE

    def _choice(self, part: Part) -> dict[str, Any]:
        begun = self._lengths.get(part.index)
        text = part.text if begun is not None or not self._body.echo else self._echo(part.index) + part.text
        offset = begun or 0
        self._lengths[part.index] = offset + len(text)
        choice: dict[str, Any] = {
            "index": part.index,
            "text": text,
            "logprobs": None if self._body.logprobs is None else completion_logprobs(part.logprobs, offset),
            "finish_reason": None if part.ending is None else part.ending.finish_reason,
        }
        if part.ending is not None and len(self._body.prompts) * self._body.n > 1:
            choice["semshare"] = semshare_object(part.ending.report)
        return choice

    def _echo(self, index: int) -> str:
        prompt = self._body.prompts[index // self._body.n]
        return prompt if isinstance(prompt, str) else str(self._server.engine.tokenizer.decode(prompt))

    def _usage(self) -> dict[str, Any]:
        return openai_usage([ending.report for ending in self._endings], len(self._body.prompts))
