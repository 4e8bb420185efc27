"""What depth promises: rows marked 0 are those of a full prefill, and ``exact`` reads no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from benchmarks.measure import greedy
from pooled import rows_of
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import ConfigError
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

POLICIES = {
    "default ratio": ReusePolicy(recompute_ratio=0.3),
    "deep": ReusePolicy(recompute_ratio=0.3, max_depth=3),
    "paper": ReusePolicy.paper(0.4, min_similarity=0, retention=None, max_depth=3),
    "runs": ReusePolicy.cacheblend(0.3, max_depth=2),
}


@pytest.fixture
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


def chained(engine: SemShareEngine, policy: ReusePolicy, turns: int = 5) -> list[str]:
    """Prompts of the same paragraphs in ever another order, each stored as ``policy`` made it."""
    rng = np.random.default_rng(0)
    engine.warm(["\n\n".join(PARAGRAPHS)])
    asked = []
    for turn in range(turns):
        order = rng.permutation(len(PARAGRAPHS))
        prompt = "\n\n".join(PARAGRAPHS[number] for number in order) + f"\n\nQuestion {turn}?"
        engine.generate(prompt, max_new_tokens=4, reuse=policy)
        asked.append(prompt)
    return asked


@torch.no_grad()
def largest_error(engine: SemShareEngine, tokens: np.ndarray, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Of the rows of ``tokens`` against plain transformers'."""
    cache = DynamicCache()
    engine.model(input_ids=torch.as_tensor(tokens)[None], past_key_values=cache, use_cache=True)
    n = len(tokens)
    return max(
        float((ours[:, :, :n] - theirs).abs().max())
        for pair, layer in zip(rows, cache.layers, strict=True)
        for ours, theirs in zip(pair, (layer.keys, layer.values), strict=True)
    )


@pytest.mark.parametrize("name", POLICIES)
def test_rows_of_depth_zero_are_a_full_prefills(engine: SemShareEngine, name: str) -> None:
    chained(engine, POLICIES[name])
    entries = list(engine.pool._books.chosen(None))
    assert max(int(entry.depth.max()) for entry in entries) >= 1, "nothing was reused, so nothing is shown"
    assert max(int(entry.depth.max()) for entry in entries) <= POLICIES[name].max_depth
    for entry in entries:
        lossless = entry.usable(0)
        assert (entry.depth[lossless:] > 0).all(), "a row behind an approximate one has read it"
        if lossless:
            assert largest_error(engine, entry.tokens[:lossless], rows_of(entry)) < 1e-4


@pytest.mark.parametrize("name", POLICIES)
def test_exact_behind_approximate_turns_is_greedy(engine: SemShareEngine, name: str) -> None:
    for prompt in chained(engine, POLICIES[name]):
        continued = prompt + " And why?"
        answer = engine.generate(continued, max_new_tokens=8, reuse="exact", store=False)
        assert answer.token_ids == greedy(engine, continued, 8)
        assert answer.report.depth == 0


def test_depth_never_outgrows_its_type() -> None:
    """Depths are stored in a byte: one more than the largest must not come back as lossless."""
    assert ReusePolicy(max_depth=254).max_depth == 254
    with pytest.raises(ConfigError, match="max_depth"):
        ReusePolicy(max_depth=255)
