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
from semshare_core.model.cache_argument import with_cache
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

POLICIES = {
    "default ratio": ReusePolicy(recompute_ratio=0.3),
    "deep": ReusePolicy(recompute_ratio=0.3, max_depth=3),
    "paper": ReusePolicy.paper(0.4, min_similarity=0, compress=None, max_depth=3),
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
    engine.model(input_ids=torch.as_tensor(tokens)[None], **with_cache(engine.model, cache), use_cache=True)
    n = len(tokens)
    return max(
        float((ours[:, :, :n] - theirs).abs().max())
        for pair, layer in zip(rows, cache.layers, strict=True)
        for ours, theirs in zip(pair, (layer.keys, layer.values), strict=True)
    )


@pytest.mark.parametrize("name", POLICIES)
def test_rows_of_depth_zero_are_a_full_prefills(engine: SemShareEngine, name: str) -> None:
    chained(engine, POLICIES[name])
    entries = list(engine.pool._entries.chosen(None))
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


def test_a_level_takes_no_approximate_prefix_of_a_laxer_one(engine: SemShareEngine) -> None:
    """It would inherit a distance that its own promise does not cover."""
    engine.warm(["\n\n".join(PARAGRAPHS)])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    assert engine.prefill(begun, reuse="balanced").report.depth == 1
    continued = f"{begun} And why?"
    for reuse in ("balanced", "fast", ReusePolicy(recompute_ratio=0.3)):
        report = engine.prefill(continued, reuse=reuse, store=False).report
        assert (report.outcome, report.prefix_tokens, report.depth) == ("prefix", len(begun), 1), reuse
        assert (report.calibration, report.expected_kl) == (None, None), "nothing is forecast of it"
    strict = engine.prefill(continued, reuse="high").report
    assert (strict.outcome, strict.depth) == ("semantic", 1), "from the lossless prompt"
    assert strict.prefix_tokens < 64
    assert engine.prefill(f"{continued} So?", reuse="high", store=False).report.prefix_tokens == len(continued)


def test_what_fixed_ratios_left_serves_no_level_as_a_prefix(engine: SemShareEngine) -> None:
    """Nothing was promised of it."""
    engine.warm(["\n\n".join(PARAGRAPHS)])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    fixed = ReusePolicy(recompute_ratio=0.2)
    assert engine.prefill(begun, reuse=fixed).report.depth == 1
    assert engine.prefill(f"{begun} And why?", reuse="fast", store=False).report.prefix_tokens < 64
    assert engine.prefill(f"{begun} And why?", reuse=fixed).report.prefix_tokens == len(begun)
    assert engine.prefill(f"{begun} And why? So?", reuse="fast", store=False).report.prefix_tokens < 64


def test_another_method_leaves_no_level_a_prefix(engine: SemShareEngine) -> None:
    engine.warm(["\n\n".join(PARAGRAPHS)])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    runs = ReusePolicy(level="balanced", matching="runs")
    assert engine.prefill(begun, reuse=runs).report.depth == 1
    assert engine.prefill(f"{begun} And why?", reuse="balanced", store=False).report.prefix_tokens < 64
    assert engine.prefill(f"{begun} And why?", reuse=runs, store=False).report.prefix_tokens == len(begun)


def test_max_depth_zero_is_lossless_altogether(engine: SemShareEngine) -> None:
    """Neither approximate prefixes nor moved rows, as ``exact``."""
    engine.warm(["\n\n".join(PARAGRAPHS)])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    assert engine.prefill(begun, reuse="high").report.depth == 1
    continued = f"{begun} And why?"
    for prompt in (continued, "\n\n".join(PARAGRAPHS) + " And why?", "\n\n".join(PARAGRAPHS[1:]) + " And why?"):
        lossless = ReusePolicy(level="high", max_depth=0)
        answer = engine.generate(prompt, max_new_tokens=8, reuse=lossless, store=False)
        exact = engine.generate(prompt, max_new_tokens=8, reuse="exact", store=False).report
        assert answer.token_ids == greedy(engine, prompt, 8)
        assert (answer.report.depth, answer.report.prefix_tokens) == (0, exact.prefix_tokens)
        assert (answer.report.moved_tokens, answer.report.fuzzy_tokens, answer.report.calibration) == (0, 0, None)
    assert exact.prefix_tokens == 0, "the last is what an approximate call would have moved"
    assert engine.prefill(prompt, reuse=ReusePolicy(recompute_ratio=0.2), store=False).report.outcome == "semantic"


def test_a_chain_of_rewrites_finds_new_ground(engine: SemShareEngine) -> None:
    """A prompt much of which only approximate rows hold becomes the next lossless one, and serves what follows."""
    rng = np.random.default_rng(0)
    sentences = ["".join(map(chr, rng.integers(97, 123, 60))) + ". " for _ in range(12)]
    engine.warm(["".join(sentences)])
    reports = []
    for place in range(11, -1, -1):
        sentences[place] = "".join(map(chr, rng.integers(97, 123, 60))) + ". "
        reports.append(engine.generate("".join(sentences) + "\n\nWhat?", max_new_tokens=2, reuse="fast").report)
    grounds = [turn for turn, report in enumerate(reports) if "approximate rows, which may not serve" in report.reason]
    assert len(grounds) >= 3
    assert all(reports[turn].depth == 0 for turn in grounds)
    reused = [report for report in reports if report.outcome == "semantic"]
    assert len(reused) >= 3
    assert len({name for report in reused for name in report.reference_ids}) > 1, "not from the first prompt alone"


def test_new_ground_is_lossless_from_its_first_token(engine: SemShareEngine) -> None:
    """A prefix out of approximate rows would make everything behind it approximate, too."""
    known, new = "\n\n".join(PARAGRAPHS), PARAGRAPHS[0][::-1]
    engine.warm([known])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    assert engine.generate(begun, max_new_tokens=2, reuse="fast").report.depth == 1
    continued = engine.generate(f"{begun} {new}", max_new_tokens=2, reuse="fast").report
    assert (continued.prefix_tokens, continued.depth) == (len(begun), 1)
    report = engine.generate(f"{begun} So. {new} {known} Well?", max_new_tokens=2, reuse="fast").report
    assert "approximate rows, which may not serve" in report.reason
    assert report.depth == 0
    assert report.prefix_tokens < 64
    assert engine.prefill(f"{begun} So. {new}", reuse="exact").report.prefix_tokens == len(f"{begun} So. {new}") - 1
