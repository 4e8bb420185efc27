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
from tiny_canary import TEXT
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

WAIT = 60.0
POLICY = ReusePolicy(recompute_ratio=0.3)


def healing_engine(model: str = "llama", *, policy: ReusePolicy = POLICY, **pool: Any) -> SemShareEngine:
    """With ``TEXT`` in its pool."""
    config = PoolConfig(**{"heal": True, **pool})
    engine = SemShareEngine(tiny_model(model), tiny_tokenizer(), policy=policy, pool=config)
    engine.warm([TEXT])
    return engine


def prompt(number: int = 0, question: str = "What is it about?") -> str:
    """The paragraphs of ``TEXT`` in another order, each number with another one at the beginning."""
    order = ((2, 0, 1), (3, 1, 0), (1, 3, 2))[number]
    return "\n\n".join([*(PARAGRAPHS[each] for each in order), question])


def ask(engine: SemShareEngine, number: int = 0, question: str = "What is it about?", **settings: Any) -> ReuseReport:
    """A call that stores approximate rows."""
    report = engine.generate(prompt(number, question), max_new_tokens=4, **settings).report
    assert report.outcome == "semantic"
    assert report.stored
    return report


def entry_of(engine: SemShareEngine, number: int = 0, namespace: str = "default") -> Entry:
    """The entry that :func:`ask` stored."""
    ids = engine.token_ids(prompt(number))
    [found] = [each for each in engine.pool._entries.chosen(namespace) if each.tokens[: len(ids)].tolist() == ids]
    return found


def full_rows(engine: SemShareEngine, entry: Entry) -> list[tuple[Tensor, Tensor]]:
    """The rows of an entry's tokens by one pass of the model alone."""
    alone = SemShareEngine(engine.model, engine.tokenizer, pool=PoolConfig(heal=False))
    cache, n = alone.prefill(entry.tokens.tolist(), reuse="off", store=False).cache, len(entry)
    return [(layer.keys[:, :, :n], layer.values[:, :, :n]) for layer in cache.layers]


@torch.no_grad()
def largest_error(engine: SemShareEngine, entry: Entry) -> float:
    """Of an entry's rows, against the full prefill's."""
    pairs = zip(rows_of(entry), full_rows(engine, entry), strict=True)
    return max(float((a - b).abs().max()) for ours, full in pairs for a, b in zip(ours, full, strict=True))


@contextmanager
def before_pass(
    patch: pytest.MonkeyPatch, number: int, act: Callable[[FreshRows], object]
) -> Iterator[threading.Event]:
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
