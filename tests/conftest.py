"""What all tests share: no network, two threads in all, and the real model loaded at most once a process."""

# ruff: noqa: E402 - what others read when they are imported is set before

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported, which reads it once
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for _name in ("torchao", "torch.utils._pytree"):  # on the CPU torchao says at length which kernels it lacks
    logging.getLogger(_name).setLevel(logging.ERROR)

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import benchmarks.ablations  # noqa: F401 -- tests name them
from benchmarks.live_tensors import held, since
from semshare_core import SemShareEngine
from semshare_core.quality.healing import Healing
from tiny_canary import planted
from tiny_models import tiny_model, tiny_tokenizer

torch.set_num_threads(max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that asks for the real model, so that ``-m "not real"`` leaves them all out."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)


@pytest.fixture(autouse=True)
def healed_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines heal where ``PoolConfig(heal=...)`` says so: elsewhere tests count what a call left behind."""

    def only_where_asked(consider: Callable[..., Any]) -> Callable[..., Any]:
        def where_asked(self: Healing, *arguments: Any, **named: Any) -> Any:
            return consider(self, *arguments, **named) if "heal" in self._pool.config.model_fields_set else None

        return where_asked

    for name in ("consider", "consider_used"):
        monkeypatch.setattr(Healing, name, only_where_asked(getattr(Healing, name)))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: tiny models are slower on two, which wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def live() -> Iterator[Callable[[], int]]:
    """Bytes of all tensors made since; only what nothing refers to is gone, for nobody collects cycles."""
    gc.disable()
    gc.freeze()  # what is older is not looked through time and again
    yield since(held())
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def bounds_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models keep no promise; with this they do, unless a test plants another bound."""
    planted(monkeypatch, high=100.0, balanced=100.0, fast=100.0)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A tiny random llama."""
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """The tiny models' tokenizer: a token per byte."""
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def demo() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The real demo model (SmolLM2-135M-Instruct, float32, on the CPU) and its tokenizer."""
    from semshare_core.model.load import load_model

    return load_model("demo", device="cpu", dtype="float32")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """What `from_pretrained` was called with, which gives the tiny model instead of loading one."""
    calls: list[dict[str, Any]] = []

    def from_pretrained(
        model_id: str,
        *,
        gguf_file: Any = None,
        tokenizer: Any = tokenizer,
        dtype: Any = None,
        device: Any = None,
        device_map: Any = None,
        pool: Any = None,
        policy: Any = None,
        embedding: Any = None,
    ) -> SemShareEngine:
        given = locals()
        calls.append({name: given[name] for name in given if name not in ("calls", "model", "given")})
        return SemShareEngine(model, tokenizer, pool=pool, policy=policy)

    monkeypatch.setattr(SemShareEngine, "from_pretrained", from_pretrained)
    return calls


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
    """LangChain's text model around the tiny one, with a pool of its own."""
    from semshare_integrations.langchain import SemShareLLM

    return SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=20)
