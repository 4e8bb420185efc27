"""A server on a free port of this machine, in a thread of the test."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from semshare_core import PoolConfig, SemShareEngine
from semshare_integrations.serving import Keys, ServeSettings, make_app
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.exchange import LOG
from semshare_integrations.serving.gate import Gate
from semshare_integrations.serving.run import DrainingServer
from semshare_integrations.serving.server import Server
from tiny_models import tiny_model, tiny_tokenizer

MODEL = "tiny"
ALICE, BOB, OPERATOR = "alice-has-a-long-key", "bob-has-another-key", "operator-looks-after-all"


@dataclass
class Served:
    """A running server."""

    url: str
    gate: Gate
    engine: SemShareEngine
    server: DrainingServer

    @property
    def admission(self) -> Admission:
        """Who runs and waits."""
        server: Server = self.gate._app.state.server  # type: ignore[attr-defined]
        return server.admission

    def openai(self, key: str = "no key at all", **settings: Any) -> openai.OpenAI:
        """OpenAI's client, which tries nothing twice."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, **settings})

    def http(self, key: str | None = None) -> httpx.Client:
        """A plain client."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @contextmanager
    def leaving(self, request: httpx.Request) -> Iterator[socket.socket]:
        """Send ``request`` on a line of its own. Its answer is read by nobody, and its client leaves in the end."""
        head = [f"{request.method} {request.url.path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
        with socket.create_connection(("127.0.0.1", self.server.port)) as line:
            line.sendall("\r\n".join([*head, "", ""]).encode() + request.content)
            yield line

    def metric(self, name: str, key: str | None = None, **labels: str) -> float:
        """The value of a metric, summed over the labels that are not given."""
        total = 0.0
        for line in self.http(key).get("/metrics").raise_for_status().text.splitlines():
            if line.partition("{")[0].partition(" ")[0] == name and all(
                f'{k}="{v}"' in line for k, v in labels.items()
            ):
                total += float(line.rpartition(" ")[2])
        return total

    def wait(self, condition: Any, seconds: float = 30) -> None:
        """Until ``condition`` holds."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it never came"
            time.sleep(0.01)


@contextmanager
def serving(engine: SemShareEngine, keys: Keys | None = None, spans: Any = None, **settings: Any) -> Iterator[Served]:
    """Serve ``engine`` as long as the context lasts."""
    gate = make_app(engine, ServeSettings(**{"model": MODEL, **settings}), keys, spans)
    server = DrainingServer("127.0.0.1", 0, grace=5)
    thread = threading.Thread(target=server.serve_app, args=(gate,), daemon=True)
    thread.start()
    served = Served(f"http://127.0.0.1:{server.port}", gate, engine, server)
    served.wait(lambda: server.started)
    try:
        yield served
    finally:
        server.handle_exit(15, None)
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that the server logs meanwhile, but for the one that it answers now, which may come a moment late."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.addFilter(lambda record: not record.getMessage().startswith("answers at"))
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    LOG.addHandler(handler)
    try:
        yield lines
    finally:
        LOG.removeHandler(handler)


@contextmanager
def slowed(engine: SemShareEngine, seconds: float) -> Iterator[None]:
    """Each layer takes at least so many seconds."""
    handles = [layer.register_forward_pre_hook(lambda *_: time.sleep(seconds)) for layer in engine.model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tiny_engine(**pool: Any) -> SemShareEngine:
    """A tiny engine with a pool of its own."""
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer(), pool=PoolConfig(**pool))
