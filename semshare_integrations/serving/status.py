"""``/health``, ``/ready``, ``/metrics``, ``/v1/models`` and ``/v1/pool``."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import FailFast, Field
from starlette.responses import PlainTextResponse, Response

from semshare_core import ReuseReport, SemShareEngine
from semshare_core.prompt.encode import Prompt
from semshare_integrations.adapter import ChatCall
from semshare_integrations.adapter.openai_messages import to_template
from semshare_integrations.serving.chat import Tool
from semshare_integrations.serving.errors import RequestError
from semshare_integrations.serving.keys import PUBLIC_NAMESPACE, Caller
from semshare_integrations.serving.parsing import Objects, Strict, TextOrObjects, invalid, parsed
from semshare_integrations.serving.requests import BYTES_PER_TOKEN, Salt, check_model
from semshare_integrations.serving.server import Server, caller_of, server_of

router = APIRouter()

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.api_route("/health", methods=["GET", "HEAD"])
async def health() -> Response:
    """The process is alive."""
    return PlainTextResponse("ok\n")


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Whether requests are taken."""
    if request.app.state.gate.draining:
        return PlainTextResponse("shutting down\n", 503)
    return PlainTextResponse("ready\n")


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """What Prometheus scrapes. Where keys are set it is the operator's: it has numbers of all callers."""
    server = server_of(request)
    if not caller_of(request).operator:
        raise _forbidden("The metrics are of all callers, and the operator's")
    text = await asyncio.to_thread(server.metrics.exposition, vllm=server.settings.vllm_metrics)
    return Response(text, headers={"content-type": _PROMETHEUS})


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The one model."""
    return {"object": "list", "data": [_model(server_of(request))]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """The model, if it has this name."""
    server = server_of(request)
    check_model(name, server.settings.model)
    return _model(server)


def _model(server: Server) -> dict[str, Any]:
    return {
        "id": server.settings.model,
        "object": "model",
        "created": int(server.began),
        "owned_by": "semshare",
        "max_model_len": server.engine.context,
    }


class PoolRequest(Strict):
    """What part of the pool is meant.

    Attributes:
        cache_salt: the caller's namespace with this salt.
        public: the public namespace. It is the operator's.
    """

    cache_salt: Salt | None = None
    public: bool = False

    def namespace(self, caller: Caller, server: Server) -> str:
        """The namespace. Raises :class:`RequestError` if it is not the caller's."""
        if not self.public:
            return caller.namespace(self.cache_salt)
        if server.keys.public_namespace is None:
            raise invalid("This server has no public namespace: start it with an operator key.", "public")
        if not caller.operator:
            raise _forbidden("The public namespace is the operator's")
        return PUBLIC_NAMESPACE


class ClearRequest(PoolRequest):
    """What is forgotten.

    Attributes:
        caller: clear the namespace of the caller with this name in the log. It is the operator's to say.
        everything: all namespaces. It is the operator's, too.
    """

    caller: str | None = None
    everything: bool = False

    def doomed(self, caller: Caller, server: Server) -> str | None:
        """The namespace; None: all. Raises :class:`RequestError` if it is not the caller's."""
        if self.caller is None and not self.everything:
            return self.namespace(caller, server)
        if not caller.operator:
            raise _forbidden("The prompts of others are the operator's to clear")
        if self.everything:
            return None
        found = server.keys.named(self.caller or "", self.cache_salt)
        if found is None:
            raise invalid(f"No key's caller has the name {self.caller!r}: the log has the names.", "caller")
        return found


class WarmChat(Strict):
    """A chat to read ahead."""

    messages: Objects = Field(min_length=1)
    tools: Annotated[list[Tool], FailFast()] = Field(default_factory=list)


class WarmRequest(PoolRequest):
    """Prompts to read: texts, or lists of messages, or objects with messages and tools as a chat request has them."""

    prompts: list[TextOrObjects | dict[str, Any]] = Field(min_length=1, max_length=64)
    pin: bool = False


@router.get("/v1/pool")
async def pool_stats(request: Request, cache_salt: str | None = None) -> dict[str, Any]:
    """What the caller's namespace holds; for the operator also what the whole pool holds."""
    server, caller = server_of(request), caller_of(request)
    own = await asyncio.to_thread(server.engine.pool.stats, caller.namespace(cache_salt))
    result: dict[str, Any] = {"object": "pool", "own": asdict(own)}
    if caller.operator:
        result["all"] = asdict(await asyncio.to_thread(server.engine.pool.stats))
    return result


@router.post("/v1/pool/warm")
async def warm(request: Request) -> dict[str, Any]:
    """Read prompts ahead, without approximation."""
    server, caller = server_of(request), caller_of(request)
    body = await parsed(request, WarmRequest)
    namespace = body.namespace(caller, server)
    if body.pin and not caller.operator:
        raise _forbidden("Pinned prompts stay when the pool is full, so pinning is the operator's")

    def read(cancel: threading.Event, timeout: float) -> list[ReuseReport]:
        try:
            prompts = [_prompt(given, server.engine) for given in body.prompts]
        except ValueError as error:
            raise invalid(f"A prompt cannot be read: {error}", "prompts") from None
        return server.engine.warm(prompts, namespace=namespace, pin=body.pin, cancel=cancel, timeout=timeout)

    reports = await server.answers.in_turn(read, len(await request.body()) // BYTES_PER_TOKEN)
    return {"object": "pool.warm", "prompts": [{"tokens": r.prompt_tokens, "stored": r.stored} for r in reports]}


@router.post("/v1/pool/clear")
async def clear(request: Request) -> dict[str, Any]:
    """Forget the caller's namespace, or the one that the operator names."""
    server, caller = server_of(request), caller_of(request)
    body = await parsed(request, ClearRequest) if await request.body() else ClearRequest()
    forgotten = await asyncio.to_thread(server.engine.pool.clear, body.doomed(caller, server))
    return {"object": "pool.clear", "entries": forgotten}


def _prompt(given: str | list[dict[str, Any]] | dict[str, Any], engine: SemShareEngine) -> Prompt:
    """The prompt as a request for an answer would have it."""
    if isinstance(given, str):
        return given
    chat = WarmChat.model_validate(given if isinstance(given, dict) else {"messages": given})
    tools = [tool.model_dump(exclude_none=True) for tool in chat.tools]
    return ChatCall.of(engine, to_template(chat.messages), tools=tools).prompt


def _forbidden(what: str) -> RequestError:
    return RequestError(
        f"{what}: send the operator's key, which the server has from SEMSHARE_OPERATOR_KEY.",
        403,
        code="permission_denied",
    )
