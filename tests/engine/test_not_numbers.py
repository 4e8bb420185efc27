"""Logits that are not numbers end the call with an error of ours, and nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.measure import greedy
from semshare_core import SemShareEngine
from semshare_core.errors import NumericalError
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)
LONGER = TEXT + "\n\nWhat is it about?"
CALLS: dict[str, Callable[[SemShareEngine, str, str], Any]] = {
    "generate": lambda engine, prompt, reuse: engine.generate(prompt, max_new_tokens=3, reuse=reuse),
    "stream": lambda engine, prompt, reuse: list(engine.stream(prompt, max_new_tokens=3, reuse=reuse)),
    "prefill": lambda engine, prompt, reuse: engine.prefill(prompt, reuse=reuse),
}


def spoil(engine: SemShareEngine, prompt: str) -> None:
    """Damage a value of every tenth row of the pooled prompt: a call may compute some of them itself."""
    entry = engine.pool.longest_prefix(
        "default", np.array(engine.token_ids(prompt)), 0, weights=engine.weights.identity()
    )
    assert entry is not None
    entry[0].segments[0].rows.layer(-1)[1][0, 0, 20::10, 0] = float("nan")


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("reuse", ["exact", "balanced"])
@pytest.mark.parametrize("prompt", [LONGER, PARAGRAPHS[3] + TEXT], ids=["prefix", "moved"])
def test_a_damaged_reference_leaves_the_pool(name: str, reuse: str, prompt: str) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    expected = greedy(engine, prompt, 3)
    engine.warm([TEXT])
    spoil(engine, TEXT)
    if reuse == "exact" and prompt is not LONGER:
        assert engine.generate(prompt, max_new_tokens=3, reuse=reuse).token_ids == expected, "it drew on nothing"
        return
    with pytest.raises(NumericalError, match="not numbers"):
        CALLS[name](engine, prompt, reuse)
    assert engine.pool.stats().entries == 0
    again = engine.generate(prompt, max_new_tokens=3, reuse=reuse)
    assert (again.report.outcome, again.token_ids) == ("miss", expected)


@pytest.mark.parametrize("name", CALLS)
def test_a_damaged_model_keeps_the_pool(name: str) -> None:
    model = tiny_model("llama")
    engine = SemShareEngine(model, tiny_tokenizer())
    engine.warm([TEXT])
    model.get_output_embeddings().weight.data[:] = float("nan")
    with pytest.raises(NumericalError):
        CALLS[name](engine, LONGER, "off")
    assert engine.pool.stats().entries == 1, "nothing was reused, so no reference is to blame"
