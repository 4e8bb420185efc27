"""Whatever a process set up in torch for its own work, calls compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from semshare_core import ReusePolicy, SemShareEngine
from tiny_models import tiny_tokenizer

TEXT = "The lighthouse at Vinga was built in 1890. It is open to visitors on Sundays from May to August. " * 6
MOVED = TEXT[200:] + TEXT[:200] + "\n\nWhen was it built?"
FIXED = ReusePolicy(recompute_ratio=0.4)


@contextmanager
def default_device() -> Iterator[None]:
    """As ``torch.set_default_device("cuda")``: what names no device is made elsewhere than the model."""
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS = {
    "a default device that is not the model's": default_device,
    "a default dtype that is not the model's": default_dtype,
    "deterministic algorithms alone": deterministic,
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_process_with(name: str, model: PreTrainedModel) -> None:
    expected = _answers(model)
    with SURROUNDINGS[name]():
        assert _answers(model) == expected


def _answers(model: PreTrainedModel) -> list[list[int]]:
    """Tokens of calls of every kind, on an engine of their own around one model."""
    engine = SemShareEngine(model, tiny_tokenizer())
    engine.warm([TEXT])
    prefix = engine.generate(TEXT + "Q", reuse="exact", max_new_tokens=6)
    moved = engine.generate(MOVED, reuse=FIXED, max_new_tokens=6, store=False)
    *_, streamed = engine.stream(MOVED, reuse=FIXED, max_new_tokens=6, temperature=1.0, seed=3)
    assert prefix.report.outcome == "prefix"
    assert moved.report.outcome == "semantic"
    assert streamed.token_ids is not None
    return [prefix.token_ids, moved.token_ids, streamed.token_ids]
