"""An engine that heals what it stored approximately, and prompts that make it store such rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pooled import rows_of
from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.pool import Entry
from semshare_core.quality.fresh_rows import FreshRows
from tiny_canary import TEXT, reordered
from tiny_models import tiny_model, tiny_tokenizer

WAIT = 60.0
POLICY = ReusePolicy(recompute_ratio=0.3)


def healing_engine(model: str = "llama", *, policy: ReusePolicy = POLICY, **pool: Any) -> SemShareEngine:
    """With ``TEXT`` in its pool."""
    engine = SemShareEngine(
        tiny_model(model), tiny_tokenizer(), policy=policy, pool=PoolConfig(**{"heal": True, **pool})
    )
    engine.warm([TEXT])
    return engine


def ask(engine: SemShareEngine, question: str = "What is it about?", **settings: Any) -> ReuseReport:
    """A call that stores approximate rows."""
    report = engine.generate(reordered(question), max_new_tokens=4, **settings).report
    assert report.outcome == "semantic"
    assert report.stored
    return report


def entry_of(engine: SemShareEngine, question: str = "What is it about?", namespace: str = "default") -> Entry:
    """The entry that :func:`ask` stored."""
    ids = engine.token_ids(reordered(question))
    [found] = [each for each in engine.pool._entries.chosen(namespace) if each.tokens[: len(ids)].tolist() == ids]
    return found


@torch.no_grad()
def full_rows(engine: SemShareEngine, entry: Entry) -> list[tuple[Tensor, Tensor]]:
    """The rows of an entry's tokens by one pass of the model alone."""
    cache = (
        SemShareEngine(engine.model, engine.tokenizer).prefill(entry.tokens.tolist(), reuse="off", store=False).cache
    )
    n = len(entry)
    return [(layer.keys[:, :, :n], layer.values[:, :, :n]) for layer in cache.layers]


def largest_error(engine: SemShareEngine, entry: Entry) -> float:
    """Of an entry's rows, against the full prefill's."""
    pairs = zip(rows_of(entry), full_rows(engine, entry), strict=True)
    return max(float((a - b).abs().max()) for ours, full in pairs for a, b in zip(ours, full, strict=True))


@contextmanager
def before_pass(patch: pytest.MonkeyPatch, number: int, act: Callable[[FreshRows], None]) -> Iterator[threading.Event]:
    """Call ``act`` before the ``number``-th pass of healing, in its thread; the event is set then."""
    acted, passes, advance = threading.Event(), [0], FreshRows.advance

    def acting(self: FreshRows, *arguments: Any) -> None:
        passes[0] += 1
        if passes[0] == number:
            act(self)
            acted.set()
        advance(self, *arguments)

    with patch.context() as inner:
        inner.setattr(FreshRows, "advance", acting)
        yield acted
