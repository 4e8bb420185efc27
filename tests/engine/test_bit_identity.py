"""``exact`` in bfloat16 and float16 on the CPU: a reused prefix must not round differently than one whole pass does."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from same_answer import cpu_only
from semshare_core import PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.model.attention.bit_blocks import passes
from tiny_models import DEVICE, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

LOW = [torch.bfloat16, torch.float16]
bits_kept = cpu_only("bits are promised on the CPU only (docs)")


def engine_of(name: str, dtype: torch.dtype, **settings: object) -> SemShareEngine:
    policy = ReusePolicy(level="exact")
    return SemShareEngine(tiny_model(name).to(dtype), tiny_tokenizer(), policy=policy, **settings)  # type: ignore[arg-type]


def text(n: int, seed: int = 3) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(250) for _ in range(n)]


def own_logits(engine: SemShareEngine, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return engine.model(torch.tensor([ids], device=DEVICE)).logits[0, -1]


@pytest.fixture(scope="module", params=LOW, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """One in which this machine's matrix products do not depend on how many rows are computed at once."""
    numbers = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(300, 64, generator=numbers).to(request.param) for _ in range(2))
    whole = rows @ weight.T
    if any(not torch.equal(rows[:n] @ weight.T, whole[:n]) for n in (1, 7, 100)):
        pytest.skip("matrix products of this machine round by the number of rows")
    return request.param


@bits_kept
@pytest.mark.parametrize("name", ["llama", "mistral_sliding", "qwen3", "gpt_neox"])
def test_a_turn_behind_a_cached_conversation_has_the_bits_of_one_pass(name: str, dtype: torch.dtype) -> None:
    if name != "llama" and dtype == torch.float16:
        pytest.skip("float16 is slow on the CPU, and goes the same way")
    for first, more in ((600, 150), (700, 900)):
        engine = engine_of(name, dtype)
        ids = text(first + more)
        answered = engine.generate(ids[:first], max_new_tokens=20)
        served = 0
        for target in (ids[:first] + answered.token_ids + ids[first:], ids, ids[:560] + ids[100:1000]):
            pre = engine.prefill(target)
            assert torch.equal(pre.logits, own_logits(engine, target))
            served += pre.report.prefix_tokens
        assert served >= 2 * 512


@bits_kept
def test_the_last_block_and_the_answer_are_computed_again(dtype: torch.dtype) -> None:
    engine = engine_of("llama", dtype)
    ids = text(1300)
    out = engine.generate(ids[:700], max_new_tokens=20)
    after = [*ids[:700], *out.token_ids, *ids[700:]]
    assert engine.prefill(after, store=False).report.prefix_tokens == 512
    assert engine.prefill([*ids[:600], 1, 2, 3], store=False).report.prefix_tokens == 512
    assert engine.prefill(ids[:500] + ids[900:], store=False).report.prefix_tokens == 500, "as far as they agree"
    assert engine.prefill([*ids[:400], 1, 2, 3], store=False).report.prefix_tokens == 0, "all of it is one last block"
    approximate = engine.prefill(after, reuse="balanced", store=False).report
    assert approximate.prefix_tokens == 719, "levels with a bound take every lossless row"


@bits_kept
def test_rows_behind_rows_that_round_otherwise_do_not_serve_exact(dtype: torch.dtype) -> None:
    engine = engine_of("llama", dtype)
    ids = text(1300)
    engine.generate(ids[:700], max_new_tokens=2)
    assert engine.prefill(ids[:1100], reuse="balanced").report.prefix_tokens > 512
    target = ids[:1090] + ids[:200]
    pre = engine.prefill(target)
    assert pre.report.prefix_tokens == 512
    assert torch.equal(pre.logits, own_logits(engine, target))


@bits_kept
def test_a_folder_knows_which_rows_have_the_bits_of_any_pass(dtype: torch.dtype, tmp_path: Path) -> None:
    ids = text(900)
    engine = engine_of("llama", dtype, pool=PoolConfig(path=tmp_path))
    engine.generate(ids[:700], max_new_tokens=20)
    engine.pool.close()
    engine = engine_of("llama", dtype, pool=PoolConfig(path=tmp_path))
    pre = engine.prefill(ids)
    assert pre.report.prefix_tokens == 512
    assert torch.equal(pre.logits, own_logits(engine, ids))
    engine.pool.close()


def test_in_float32_every_lossless_row_serves() -> None:
    engine = engine_of("llama", torch.float32)
    ids = text(700)
    out = engine.generate(ids[:400], max_new_tokens=20)
    assert engine.prefill(ids[:400] + out.token_ids + ids[400:], store=False).report.prefix_tokens == 419


@pytest.mark.parametrize(
    ("start", "end", "block", "expected"),
    [
        (0, 2000, 1, [768, 768, 464]),
        (700, 1500, 1, [768, 32]),
        (512, 600, 512, [88]),
        (512, 1024, 512, [512]),
        (700, 1100, 512, [324, 76]),
        (512, 2000, 512, [512, 512, 464]),
    ],
)
def test_pieces_end_with_a_block(start: int, end: int, block: int, expected: list[int]) -> None:
    parts = passes(start, end, block, 768)
    assert [len(part) for part in parts] == expected
    assert [row for part in parts for row in part] == list(range(start, end))
