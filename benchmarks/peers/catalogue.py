"""The peers that we know, and what each is measured under."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.environments import Environment
from benchmarks.peers.peer import Peer
from semshare_core.model.demo import demo_folder, demo_gguf

_WORKERS = Path(__file__).with_name("workers")

ENVIRONMENTS = {
    made.name: made
    for made in (
        Environment("kvpress"),
        Environment("kvboost"),
        # There is no wheel: pip builds it, without its image reader, and leaves one core to others.
        Environment("llama-cpp", {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}),
        Environment("vllm"),
    )
}


def _peer(name: str, settings: tuple[str, ...], model: Callable[[], Path]) -> Peer:
    environment = ENVIRONMENTS[name]
    worker = _WORKERS / f"run_{name.replace('-', '_')}.py"
    return Peer(name, settings, worker, lambda: environment.python, model)


PEERS: dict[str, Peer] = {
    made.name: made
    for made in (
        # The paper's saving of 42 % of the cache.
        _peer("kvpress", ("snapkv 0.42", "pyramidkv 0.42", "observed 0.42", "chunkkv 0.42"), demo_folder),
        _peer("kvboost", ("selective", "cacheblend"), demo_folder),
        _peer("llama-cpp", ("prompt-cache",), demo_gguf),
        _peer("vllm", ("prefix-caching",), demo_folder),
    )
}
"""By name. `dataclasses.replace(peer, settings=(...))` measures one under other settings."""
