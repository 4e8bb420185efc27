"""Models whose rotary frequencies change with the prompt's length: reuse while they stand still, a full prefill beyond.

The model's rotary module remembers the longest prompt so far, so each comparison is with a model made afresh.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.budget.recompute import Budget
from semshare_core.match.plan import Source
from semshare_core.model.spec import measure_spec
from semshare_core.prefill.selective import SelectivePrefill
from tiny_models import VARYING_ROPE, tiny_model, tiny_tokenizer
from tiny_reuse import full_logits, plan_of, random_ids, reference_of, reused_logits, selective

pytestmark = pytest.mark.usefixtures("one_thread")

LIMIT = 64
TOLERANCE = 1e-4

each_model = pytest.mark.parametrize("name", VARYING_ROPE)


def engine_of(name: str) -> SemShareEngine:
    return SemShareEngine(tiny_model(name), tiny_tokenizer(), pool=PoolConfig(min_tokens=8))


def moved_rows_are_right(prefill: SelectivePrefill) -> None:
    """A reference that holds the target's text 20 positions later serves all of it, as in ``test_architectures``."""
    n, shift = 36, 20
    ids = random_ids(n, seed=1)
    reference = reference_of(prefill.model, ids, offset=shift)
    expected = full_logits(prefill.model, ids, 1)
    plan = plan_of(n, reference)
    plan.serve(0, n, Source.MOVED, 0, shift)
    prefilled = selective(
        prefill, torch.as_tensor(ids), plan, [reference], ReusePolicy(), Budget(0.3, fill=True), n - 5, n
    )
    torch.testing.assert_close(reused_logits(prefill.model, prefilled, ids, n), expected, atol=TOLERANCE, rtol=0)


@each_model
def test_rows_move_within_the_limit(name: str) -> None:
    model = tiny_model(name)
    prefill = SelectivePrefill(model, measure_spec(model))
    assert prefill.spec.static_until == LIMIT
    moved_rows_are_right(prefill)


@each_model
def test_rows_move_rightly_after_a_long_prompt(name: str) -> None:
    """A long prompt changes the model's frequencies, and must not change those by which rows are moved."""
    model = tiny_model(name)
    prefill = SelectivePrefill(model, measure_spec(model))
    full_logits(model, random_ids(2 * LIMIT), 1)
    moved_rows_are_right(prefill)


@each_model
def test_a_model_is_examined_rightly_after_a_long_prompt(name: str) -> None:
    model = tiny_model(name)
    full_logits(model, random_ids(2 * LIMIT), 1)
    moved_rows_are_right(SelectivePrefill(model, measure_spec(model)))


@each_model
def test_prefix_is_reused_within_the_limit(name: str) -> None:
    engine = engine_of(name)
    ids = random_ids(50, seed=2)
    engine.warm([ids[:40].tolist()])
    result = engine.prefill(ids.tolist(), reuse="exact")
    assert result.report.prefix_tokens == 40
    torch.testing.assert_close(result.logits, full_logits(tiny_model(name), ids, 1)[0], atol=TOLERANCE, rtol=0)


@each_model
@pytest.mark.parametrize("n", [LIMIT, LIMIT + 1, 100, 200])
@pytest.mark.parametrize("level", ["exact", "balanced", "off"])
def test_beyond_the_limit_it_is_the_full_prefill(name: str, n: int, level: str) -> None:
    engine = engine_of(name)
    ids = random_ids(n, seed=3)
    engine.warm([ids[:50].tolist()])
    result = engine.prefill(ids.tolist(), reuse=level)
    assert result.report.outcome == "bypass"
    assert level == "off" or f"beyond {LIMIT} tokens" in result.report.reason
    assert result.report.new_tokens == n
    assert result.report.kv_bytes == result.report.kv_bytes_full > 0
    torch.testing.assert_close(result.logits, full_logits(tiny_model(name), ids, 1)[0], atol=TOLERANCE, rtol=0)
    assert engine.pool.stats().entries == 1, "rows of other frequencies are not kept"


def test_beyond_the_limit_in_several_chunks() -> None:
    """More tokens than are computed at once: the first of them must not see the frequencies of a short prompt."""
    ids = random_ids(700, seed=4)
    result = engine_of("phi3_longrope").prefill(ids.tolist())
    expected = full_logits(tiny_model("phi3_longrope"), ids, 1)[0]
    torch.testing.assert_close(result.logits, expected, atol=TOLERANCE, rtol=0)


@each_model
@pytest.mark.parametrize("n", [40, LIMIT - 1, LIMIT, LIMIT + 1, 150])
def test_answers_across_the_limit_are_the_models_own(name: str, n: int) -> None:
    """Also where the prompt is within the limit and the answer is not."""
    engine = engine_of(name)
    ids = random_ids(n, seed=5)
    prompt = torch.as_tensor(ids)[None]
    expected = tiny_model(name).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=32, do_sample=False
    )
    engine.warm([ids[:32].tolist()])
    answer = engine.generate(ids.tolist(), max_new_tokens=32, reuse="exact")
    assert answer.token_ids == expected[0, n:].tolist()
    assert answer.report.outcome == "bypass"
    again = engine.generate(np.append(ids[:32], 7).tolist(), max_new_tokens=4, reuse="exact")
    assert again.report.prefix_tokens == 32, "shorter prompts are served as before"
