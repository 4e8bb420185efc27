"""What an account promises: rows without one are those of a full prefill, and ``exact`` reads no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from benchmarks.measure import greedy
from pooled import rows_of
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.budget.levels import BOUNDS
from semshare_core.model.cache_argument import with_cache
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

POLICIES = {
    "default ratio": ReusePolicy(recompute_ratio=0.3),
    "balanced": ReusePolicy(level="balanced"),
    "paper": ReusePolicy.paper(0.4, min_similarity=0, compress=None),
    "runs": ReusePolicy.cacheblend(0.3),
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
def test_rows_without_an_account_are_a_full_prefills(engine: SemShareEngine, name: str) -> None:
    chained(engine, POLICIES[name])
    entries = list(engine.pool._entries.chosen(None))
    assert any(entry.account for entry in entries), "nothing was reused, so nothing is shown"
    for entry in entries:
        lossless = len(entry.lossless)
        assert entry.approximate[lossless:].all(), "a row behind an approximate one has read it"
        assert (lossless == len(entry)) == (entry.account == 0)
        if lossless:
            assert largest_error(engine, entry.tokens[:lossless], rows_of(entry)) < 1e-4


@pytest.mark.parametrize("name", POLICIES)
def test_exact_behind_approximate_turns_is_greedy(engine: SemShareEngine, name: str) -> None:
    for prompt in chained(engine, POLICIES[name]):
        continued = prompt + " And why?"
        answer = engine.generate(continued, max_new_tokens=8, reuse="exact", store=False)
        assert answer.token_ids == greedy(engine, continued, 8)
        assert (answer.report.account, answer.report.expected_kl) == (0, 0)


def begun_by(engine: SemShareEngine, reuse: str | ReusePolicy) -> tuple[str, float | None]:
    """A prompt that the engine has served approximately, and the account of its rows."""
    engine.warm(["\n\n".join(PARAGRAPHS)])
    begun = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat is it about?"
    report = engine.prefill(begun, reuse=reuse).report
    assert report.outcome == "semantic"
    return begun, report.account


def test_an_approximate_prefix_serves_levels_whose_bound_covers_its_account(engine: SemShareEngine) -> None:
    begun, account = begun_by(engine, "fast")
    assert account
    continued = f"{begun} And why?"
    for reuse in ("fast", ReusePolicy(recompute_ratio=0.3)):
        report = engine.prefill(continued, reuse=reuse, store=False).report
        assert (report.outcome, report.prefix_tokens, report.account) == ("prefix", len(begun), account), reuse
        assert report.expected_kl == account


def test_rows_of_a_large_account_serve_only_what_names_a_ratio(engine: SemShareEngine) -> None:
    """Nothing is known of rows that a small fixed ratio, or another method, left behind."""
    for left in (ReusePolicy(recompute_ratio=0.02), ReusePolicy(level="balanced", matching="runs")):
        engine.pool.clear()
        begun, account = begun_by(engine, left)
        assert account is None
        level = engine.prefill(f"{begun} And why?", reuse="fast", store=False).report
        assert level.prefix_tokens < 64
        assert level.outcome == "semantic", "from the lossless prompt"
        ratio = engine.prefill(f"{begun} And why?", reuse=ReusePolicy(recompute_ratio=0.3), store=False).report
        assert (ratio.outcome, ratio.prefix_tokens, ratio.account) == ("prefix", len(begun), None)


def test_a_chain_of_rewrites_keeps_within_the_bound(engine: SemShareEngine) -> None:
    """Accounts grow from turn to turn, until lossless rows serve or a prompt is computed in full."""
    rng = np.random.default_rng(0)
    sentences = ["".join(map(chr, rng.integers(97, 123, 60))) + ". " for _ in range(12)]
    engine.warm(["".join(sentences)])
    reports = []
    for place in range(11, -1, -1):
        sentences[place] = "".join(map(chr, rng.integers(97, 123, 60))) + ". "
        reports.append(engine.generate("".join(sentences) + "\n\nWhat?", max_new_tokens=2, reuse="fast").report)
    accounts = [report.account for report in reports]
    assert all(account is not None and account <= BOUNDS["fast"].kl for account in accounts)
    reused = [report for report in reports if report.outcome == "semantic"]
    assert len(reused) >= 8
    assert len({name for report in reused for name in report.reference_ids}) > 1, "not from the first prompt alone"


def test_an_approximate_prefix_is_repaired_where_it_cannot_serve_as_it_is(engine: SemShareEngine) -> None:
    """Its account is beyond the bound of ``high``, but not so far that computing a part of it does not help."""
    begun, _ = begun_by(engine, "fast")
    (kept,) = (entry for entry in engine.pool._entries.chosen(None) if entry.account)
    kept.account = 1.2 * BOUNDS["high"].kl
    engine.pool.discard([entry for entry in engine.pool._entries.chosen(None) if not entry.account])
    report = engine.prefill(f"{begun} And why?", reuse="high", store=False).report
    assert report.outcome == "semantic"
    assert report.prefix_tokens == len(kept.lossless)
    assert report.moved_tokens > 0.9 * (len(begun) - len(kept.lossless))
    assert 0 < report.recompute_ratio < 1


def test_a_ratio_that_computes_every_row_expects_no_divergence(engine: SemShareEngine) -> None:
    engine.warm(["\n\n".join(PARAGRAPHS)])
    prompt = "\n\n".join(PARAGRAPHS[::-1]) + "\n\nWhat?"
    report = engine.prefill(prompt, reuse=ReusePolicy(recompute_ratio=1.0), store=False).report
    assert report.outcome == "semantic"
    assert report.recomputed_tokens == report.prompt_tokens
    assert (report.account, report.expected_kl) == (0.0, 0.0)


def test_only_rows_of_a_full_prefill_count_as_cached(engine: SemShareEngine) -> None:
    first, second, third = PARAGRAPHS[:3]
    engine.warm([f"{first}\n\n{second}\n\n{third}\n\nAll?"])
    order = f"{first}\n\n{third}\n\n{second}\n\n"
    swapped = engine.generate(f"{order}All?", max_new_tokens=2, reuse=POLICIES["runs"]).report
    assert swapped.outcome == "semantic"
    assert len(first) <= swapped.lossless_prefix_tokens <= swapped.prefix_tokens
    again = engine.generate(f"{order}Which of them?", max_new_tokens=2, reuse=POLICIES["runs"]).report
    assert again.prefix_tokens > len(first) + len(third)
    assert len(first) <= again.lossless_prefix_tokens < len(first) + 20, "behind it the earlier call's rows are moved"
    assert engine.generate(third, max_new_tokens=2, reuse="off").report.lossless_prefix_tokens == 0
