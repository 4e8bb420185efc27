"""``semshare serve``: answer over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from semshare_core.cli.amounts import read_bytes
from semshare_core.config import PoolConfig, ReusePolicy, resolve_policy

_DEFAULT_BYTES = "2GiB"


def serve(
    model: Annotated[str, typer.Argument(help="Hub id, folder, GGUF file or 'demo'.", show_default=False)],
    host: Annotated[str, typer.Option(help="The address to listen on. 0.0.0.0: all of the machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model. [MODEL]", show_default=False)] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file with the keys of those who may ask, one a line.", show_default=False)
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name under which a proxy passes requests on.", show_default=False)
    ] = None,
    pool: Annotated[Path | None, typer.Option(help="A folder in which the pool stays.", show_default=False)] = None,
    max_bytes: Annotated[str, typer.Option(help="The pool's keys and values in memory.")] = _DEFAULT_BYTES,
    reuse: Annotated[str, typer.Option(help="The level of requests that name none.")] = "balanced",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default=False)] = None,
    max_waiting: Annotated[int, typer.Option(help="Requests that may wait; more get status 429.", min=0)] = 64,
    max_waiting_tokens: Annotated[int, typer.Option(help="Tokens that may run and wait.", min=1)] = 1_000_000,
    max_body: Annotated[str, typer.Option(help="The largest request.")] = "16MiB",
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take, with its wait.")] = 600.0,
    max_tokens: Annotated[int, typer.Option(help="The longest chat answer, unless a request says.", min=1)] = 1024,
    grace: Annotated[int, typer.Option(help="Seconds that running requests have when the server stops.", min=0)] = 30,
    vllm_metrics: Annotated[bool, typer.Option("--vllm-metrics", help="Metrics under vLLM's names, too.")] = False,
    otel: Annotated[bool, typer.Option("--otel", help="Spans and metrics for OpenTelemetry.")] = False,
) -> None:
    """Serve a model over HTTP, as OpenAI's clients expect it.

    Keys also come from the environment: SEMSHARE_API_KEYS, with commas between them, and SEMSHARE_OPERATOR_KEY. The
    operator sees the whole pool and the metrics, and fills the public namespace.
    """
    from semshare_integrations.serving import DrainingServer, Keys, ServeSettings, make_app
    from semshare_integrations.serving.doors import is_loopback

    keys = Keys.read(api_keys, os.environ)
    settings = ServeSettings(
        model=name or model,
        max_waiting=max_waiting,
        max_waiting_tokens=max_waiting_tokens,
        max_body_bytes=read_bytes(max_body),
        timeout=timeout,
        default_max_tokens=max_tokens,
        hosts=tuple(name.lower() for name in allow_host or ()),
        vllm_metrics=vllm_metrics,
    )
    policy = resolve_policy(reuse, ReusePolicy(), "--reuse")
    server = DrainingServer(host, port, grace)  # has its address before the slow loading of the model
    pool_config = PoolConfig(max_bytes=read_bytes(max_bytes), path=pool, public_namespace=keys.public_namespace)
    spans = _spans(settings.model) if otel else None

    from semshare_core.engine import SemShareEngine

    engine = SemShareEngine.from_pretrained(model, dtype=dtype, device=device, pool=pool_config, policy=policy)
    if keys.open and not is_loopback(host):
        typer.secho(
            f"semshare: {host} can be reached from other machines, and there are no API keys: everybody there may ask, "
            "and all share one namespace. Give keys with --api-keys or SEMSHARE_API_KEYS.",
            fg="yellow",
            err=True,
        )
    server.serve_app(make_app(engine, settings, keys, spans))


def _spans(model: str) -> Any:
    from semshare_integrations.serving.spans import OtelSpans

    return OtelSpans(model)
