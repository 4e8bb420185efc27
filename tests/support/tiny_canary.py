"""An engine whose calls are checked in the background, and prompts that it serves from what it has read."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.budget.levels import BOUNDS, Bound
from semshare_core.errors import QualityWarning
from semshare_core.quality.uncalibrated import warn_once
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

TEXT = "\n\n".join(PARAGRAPHS)
QUESTIONS = ["What is it about?", "Who wrote it?", "When does it leave?", "How much is it?"]


def reordered(question: str) -> str:
    return "\n\n".join([PARAGRAPHS[2], PARAGRAPHS[0], PARAGRAPHS[1], question])


def engine_of(model: str = "llama", **policy: Any) -> SemShareEngine:
    engine = SemShareEngine(tiny_model(model), tiny_tokenizer(), policy=ReusePolicy(**{"canary": 1.0, **policy}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)
        warn_once(engine.model, "fast")  # that no calibration is there, and not among the canary's warnings
    engine.warm([TEXT])
    return engine


@contextmanager
def busy(engine: SemShareEngine) -> Iterator[None]:
    """The background gets no turn in here, but calls of ours do: a call is always on its way."""
    engine._lock._calls += 1
    try:
        yield
    finally:
        with engine._lock._changed:
            engine._lock._calls -= 1
            engine._lock._changed.notify_all()


def asked(engine: SemShareEngine, *questions: str, **settings: Any) -> list[ReuseReport]:
    """The reports of calls that are checked one after the other."""
    reports = []
    for question in questions:
        reports.append(engine.generate(reordered(question), max_new_tokens=4, store=False, **settings).report)
        assert engine.canary.wait()
    return reports


def planted(monkeypatch: pytest.MonkeyPatch, **levels: float) -> None:
    """Bounds of other heights."""
    for level, kl in levels.items():
        monkeypatch.setitem(BOUNDS, level, Bound(kl))
