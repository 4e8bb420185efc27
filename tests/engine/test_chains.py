"""Reuse of what was itself reused: rows know how deep they are, and turns chained one on another do not drift."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.measure import greedy
from semshare_core import ReusePolicy, SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, full_logits

pytestmark = pytest.mark.usefixtures("one_thread")

A, B, C, D = (list(text.encode()) for text in PARAGRAPHS)
QUESTION = list(b"\n\nWhat is it about?")


@pytest.fixture
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


def ratio(**more: object) -> ReusePolicy:
    return ReusePolicy(recompute_ratio=0.2, **more)


def logits_error(engine: SemShareEngine, logits: torch.Tensor, ids: list[int]) -> float:
    return float((logits - full_logits(engine.model, np.array(ids), 1)[0]).abs().max())


def test_approximate_rows_are_one_deeper(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    report = engine.prefill(B + A + QUESTION, reuse=ratio()).report
    assert (report.outcome, report.depth) == ("semantic", 1)
    (entry,) = (entry for entry in engine.pool._entries.chosen(None) if len(entry) == len(B + A + QUESTION))
    assert entry.depth.max() == 1
    assert (np.diff(entry.depth.astype(int)) >= 0).all(), "a row computed behind an approximate one has read it"
    first_reused = report.token_recomputed.index(0)
    assert (entry.depth[:first_reused] == 0).all()
    assert (entry.depth[first_reused:] == 1).all()


def test_what_is_computed_afresh_has_no_depth(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    result = engine.prefill(B + A + QUESTION, reuse=ReusePolicy(recompute_ratio=1.0))
    assert result.report.depth == 0
    assert logits_error(engine, result.logits, B + A + QUESTION) < 1e-4


def test_generated_tokens_are_as_deep_as_their_prompt(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.generate(B + A + QUESTION, max_new_tokens=20, reuse=ratio())
    deep = next(entry for entry in engine.pool._entries.chosen(None) if len(entry) > len(B + A + QUESTION))
    assert len(deep) == len(B + A + QUESTION) + 19
    assert (deep.depth[-20:] == 1).all()


def test_deep_rows_serve_no_further_approximation(engine: SemShareEngine) -> None:
    """The only entry that holds C is one reuse deep; with max_depth 1 its C must not be moved, with 2 it may."""
    engine.warm([A + B])
    engine.prefill(B + A + C + QUESTION, reuse=ratio())
    target = C + D + QUESTION
    shallow = engine.prefill(target, reuse=ratio(), store=False).report
    assert shallow.moved_tokens < len(C) / 2
    assert shallow.depth <= 1
    deep = engine.prefill(target, reuse=ratio(max_depth=2), store=False).report
    assert deep.moved_tokens >= len(C)
    assert deep.depth == 2


def test_deep_prefixes_serve_within_the_depth_allowed(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    first = engine.prefill(B + A + QUESTION, reuse=ratio()).report
    prompt = B + A + QUESTION + D
    again = engine.prefill(prompt, reuse=ratio(), store=False).report
    assert again.prefix_tokens == len(B + A + QUESTION)
    assert again.depth == 1
    lossless = engine.prefill(prompt, reuse=ratio(max_depth=0), store=False)
    assert lossless.report.prefix_tokens == first.token_recomputed.index(0), "only the rows before the first reused one"
    assert lossless.report.depth == 0
    assert logits_error(engine, lossless.logits, prompt) < 1e-4


def test_exact_uses_no_approximate_row(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.prefill(B + A + QUESTION, reuse=ratio())
    prompt = B + A + QUESTION + D
    answer = engine.generate(prompt, max_new_tokens=10, reuse="exact")
    assert answer.token_ids == greedy(engine, prompt, 10)
    assert answer.report.depth == 0
    assert answer.report.prefix_tokens < len(B)


def test_rows_that_are_too_deep_are_not_kept(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.prefill(B + A + QUESTION, reuse=ratio())
    before = engine.pool.stats()
    report = engine.prefill(B + A + QUESTION + D, reuse=ratio(max_depth=1)).report
    assert report.depth == 1
    assert engine.pool.stats().tokens == before.tokens + len(D), "as deep as allowed: kept"
    engine.pool.clear()
    engine.warm([A + B])
    engine.prefill(B + A, reuse=ratio(max_depth=0))
    assert all((entry.depth == 0).all() for entry in engine.pool._entries.chosen(None))


def turns(engine: SemShareEngine, reuse: str | ReusePolicy, count: int = 20) -> list[tuple[float, int, list[int]]]:
    """A growing conversation: (error of the next token's logits, depth, prompt) of every turn."""
    rng = np.random.default_rng(0)
    ids = A + B
    found = []
    for turn in range(count):
        ids = (
            ids
            + list(f"\n\nTurn {turn}: ".encode())
            + rng.permutation(np.frombuffer(b"tell me more about it", np.uint8)).tolist()
        )
        result = engine.prefill(ids, reuse=reuse, store=False)
        found.append((logits_error(engine, result.logits, ids), result.report.depth, ids))
        answer = engine.generate(ids, max_new_tokens=6, reuse=reuse)
        ids = ids + answer.token_ids
        assert answer.report.prefix_tokens > 0 or turn == 0
    return found


def test_twenty_turns_do_not_drift_at_level_exact(engine: SemShareEngine) -> None:
    found = turns(engine, "exact")
    assert max(error for error, _, _ in found) < 1e-4
    assert {depth for _, depth, _ in found} == {0}
    last = found[-1][2]
    report = engine.generate(last, max_new_tokens=6, reuse="exact").report
    assert report.prefix_tokens == len(last) - 1, "all turns so far are one entry"
    assert engine.pool.stats().entries == 1


def test_twenty_rewritten_turns_do_not_drift(engine: SemShareEngine) -> None:
    """A window slides over the conversation, so that every turn is reused in another place: never more than once."""
    rng = np.random.default_rng(0)
    engine.warm([A + B + C])
    errors = []
    window = [A, B, C]
    for turn in range(20):
        window = [*window[1:], [int(token) for token in rng.permutation(window[0])]]
        prompt = [token for part in window for token in part] + list(f"\n\nTurn {turn}?".encode())
        result = engine.prefill(prompt, reuse=ReusePolicy(recompute_ratio=0.5))
        assert result.report.depth <= 1
        errors.append(logits_error(engine, result.logits, prompt))
    assert all(entry.depth.max() <= 1 for entry in engine.pool._entries.chosen(None))
    assert min(errors) < 1e-3, "rows are too deep after one reuse, so texts are computed afresh now and then"
    assert max(errors[10:]) <= 2 * max(errors[:10])
