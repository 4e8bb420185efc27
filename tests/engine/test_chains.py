"""Reuse of what was itself reused: rows know whether they are lossless, and chained turns do not drift."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from same_answer import assert_full, assert_greedy, far_from_full, short_prefixes_serve
from semshare_core import ReusePolicy, SemShareEngine
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS, full_logits

pytestmark = pytest.mark.usefixtures("one_thread")

A, B, C, D = (list(text.encode()) for text in PARAGRAPHS)
QUESTION = list(b"\n\nWhat is it about?")


@pytest.fixture
def engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


def ratio(share: float = 0.2) -> ReusePolicy:
    return ReusePolicy(recompute_ratio=share)


def logits_error(engine: SemShareEngine, logits: torch.Tensor, ids: list[int]) -> float:
    return float((logits - full_logits(engine.model, np.array(ids), 1)[0]).abs().max())


def test_rows_from_the_first_reused_one_on_are_approximate(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    report = engine.prefill(B + A + QUESTION, reuse=ratio()).report
    assert report.outcome == "semantic"
    (entry,) = (entry for entry in engine.pool._entries.chosen(None) if len(entry) == len(B + A + QUESTION))
    first_reused = report.token_recomputed.index(0)
    assert not entry.approximate[:first_reused].any()
    assert entry.approximate[first_reused:].all(), "a row computed behind an approximate one has read it"
    assert entry.account > 0


def test_what_is_computed_afresh_is_lossless(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    result = engine.prefill(B + A + QUESTION, reuse=ReusePolicy(recompute_ratio=1.0))
    assert result.report.account == 0
    assert_full(result.logits, engine.model, B + A + QUESTION)


def test_answers_to_approximate_prompts_are_approximate(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.generate(B + A + QUESTION, max_new_tokens=20, reuse=ratio())
    kept = next(entry for entry in engine.pool._entries.chosen(None) if len(entry) > len(B + A + QUESTION))
    assert len(kept) == len(B + A + QUESTION) + 19
    assert kept.approximate[-20:].all()


def test_approximate_rows_move_again(engine: SemShareEngine) -> None:
    """The only entry that holds C is an approximate one."""
    engine.warm([A + B])
    engine.prefill(B + A + C + QUESTION, reuse=ratio())
    again = engine.prefill(C + D + QUESTION, reuse=ratio(), store=False).report
    assert again.moved_tokens >= len(C)
    assert again.account != 0


def test_originals_serve_before_approximate_copies(engine: SemShareEngine) -> None:
    """The copy holds more of the prompt, and in one run; the original has what it holds in lossless rows."""
    engine.warm([A + B])
    engine.prefill(B + A + C + QUESTION, reuse=ratio())
    original, copy = sorted(engine.pool._entries.chosen(None), key=len)
    report = engine.prefill(D[:9] + B + A + C + D, reuse=ratio(), store=False).report
    assert set(report.reference_ids) == {original.id, copy.id}
    plan = engine._request(D[:9] + B + A + C + D, ratio(), None).look_up().plan
    first, last = slice(9, 9 + len(B + A)), slice(9 + len(B + A) + 9, 9 + len(B + A + C))
    assert plan.approximate[first].mean() < 0.1
    assert plan.approximate[last].all()


def test_a_copy_serves_before_an_original_of_another_context(engine: SemShareEngine) -> None:
    engine.warm([D + C])
    engine.warm([A])
    engine.prefill(A + B + C + QUESTION, reuse=ratio(0.3))
    plan = engine._request(B[:9] + A + B + C + QUESTION, ratio(), None).look_up().plan
    begin = 9 + len(A + B)
    assert plan.approximate[begin + 24 : begin + len(C)].all()


def test_approximate_prefixes_serve_as_they_are_within_the_bound(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.prefill(B + A + QUESTION, reuse=ratio())
    prompt = B + A + QUESTION + D
    again = engine.prefill(prompt, reuse=ratio(), store=False).report
    assert again.prefix_tokens == len(B + A + QUESTION)
    assert again.account != 0


def test_exact_uses_no_approximate_row(engine: SemShareEngine) -> None:
    engine.warm([A + B])
    engine.prefill(B + A + QUESTION, reuse=ratio())
    prompt = B + A + QUESTION + D
    answer = engine.generate(prompt, max_new_tokens=10, reuse="exact")
    assert_greedy(answer.token_ids, engine.model, engine.token_ids(prompt), 10)
    assert answer.report.account == 0
    assert answer.report.prefix_tokens < len(B)


def turns(
    engine: SemShareEngine, reuse: str | ReusePolicy, count: int = 20
) -> list[tuple[float, float | None, list[int]]]:
    """A growing conversation: (next token's logits as far from full as may be, account, prompt) of every turn."""
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
        found.append((far_from_full(result.logits, engine.model, ids), result.report.account, ids))
        answer = engine.generate(ids, max_new_tokens=6, reuse=reuse)
        ids = ids + answer.token_ids
        assert answer.report.prefix_tokens > 0 or turn == 0
    return found


@short_prefixes_serve
def test_twenty_turns_do_not_drift_at_level_exact(engine: SemShareEngine) -> None:
    found = turns(engine, "exact")
    assert max(error for error, _, _ in found) < 1
    assert {account for _, account, _ in found} == {0}
    last = found[-1][2]
    report = engine.generate(last, max_new_tokens=6, reuse="exact").report
    assert report.prefix_tokens == len(last) - 1, "all turns so far are one entry"
    assert engine.pool.stats().entries == 1


def test_twenty_rewritten_turns_do_not_drift(engine: SemShareEngine) -> None:
    """A window slides over the conversation, so that every turn is reused in another place, again and again."""
    rng = np.random.default_rng(0)
    engine.warm([A + B + C])
    errors = []
    window = [A, B, C]
    for turn in range(20):
        window = [*window[1:], [int(token) for token in rng.permutation(window[0])]]
        prompt = [token for part in window for token in part] + list(f"\n\nTurn {turn}?".encode())
        result = engine.prefill(prompt, reuse=ReusePolicy(recompute_ratio=0.5))
        errors.append(logits_error(engine, result.logits, prompt))
    assert max(errors[10:]) <= 2 * max(errors[:10])
