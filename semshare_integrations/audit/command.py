"""``semshare audit``: requests from a log, run against the engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from semshare_core.cli.amounts import read_bytes
from semshare_core.config import PoolConfig, ReusePolicy, resolve_policy


def audit(
    log: Annotated[Path, typer.Argument(help="A file of JSON lines: requests of OpenAI's API.", show_default=False)],
    model: Annotated[str, typer.Option(help="Hub id, folder, GGUF file or 'demo'.")] = "demo",
    reuse: Annotated[str, typer.Option(help="The level.")] = "balanced",
    sample: Annotated[float, typer.Option(help="The share compared with the full prefill.", min=0, max=1)] = 0.2,
    page: Annotated[Path | None, typer.Option(help="Write a page of HTML to show.", show_default=False)] = None,
    max_bytes: Annotated[str, typer.Option(help="The pool's keys and values in memory.")] = "2GiB",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...", show_default=False)] = None,
    seed: Annotated[int, typer.Option(help="Draws the sample.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what SemShare would have saved on requests that were logged, per kind of edit.

    The requests are prefilled in their order, and nothing is generated. Of a sample the KL to the full prefill is
    measured.
    """
    from semshare_core.engine import SemShareEngine
    from semshare_integrations.audit import tables
    from semshare_integrations.audit.log_file import read_requests
    from semshare_integrations.audit.replay import Replayed, by_kind, replay

    policy = resolve_policy(reuse, ReusePolicy(), "--reuse")
    requests = read_requests(log)
    config = PoolConfig(max_bytes=read_bytes(max_bytes))
    engine = SemShareEngine.from_pretrained(model, dtype=dtype, device=device, pool=config, policy=policy)
    replayed: list[Replayed] = []
    left_out = 0
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for each in replay(engine, requests, sample=sample, seed=seed):
        if isinstance(each, Replayed):
            replayed.append(each)
        else:
            left_out += 1
            errors.print(f"line {each[0]} is left out: {each[1]}")
    kinds = by_kind(replayed)
    if page is not None:
        page.write_text(tables.page(kinds, model, reuse, left_out), encoding="utf-8")
    if as_json:
        print(json.dumps(tables.as_json(kinds), indent=1))
    else:
        Console().print(tables.console_table(kinds))
