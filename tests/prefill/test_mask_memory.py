"""No prefill ever makes a mask, or anything else, of tokens x tokens: chunks of rows bound the largest tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from same_answer import NAME, assert_close, assert_full, not_low_on_accelerators, not_low_on_cpu
from semshare_core import Retention, ReusePolicy, SemShareEngine
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.forward import CHUNK_ROWS
from tiny_models import DEVICE, DTYPE, HEADS, KV_HEADS, tiny_model, tiny_tokenizer
from tiny_reuse import full_logits, random_ids

pytestmark = pytest.mark.usefixtures("one_thread")

N = 1500
CHUNK = 100
whole_blocks_here = not_low_on_cpu("passes of exact end with whole blocks of 512 keys, not with the chunk")
PARTS = random_ids(N, seed=1).reshape(5, -1)
TARGET = PARTS[[0, 3, 2, 1, 4]].ravel()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return made


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of every mask that was made."""
    made: list[int] = []
    original = ModelSpec.mask

    def mask(self: ModelSpec, *args: Any) -> Tensor:
        made.append(original(self, *args).numel())
        return original(self, *args)

    monkeypatch.setattr(ModelSpec, "mask", mask)
    return made


@pytest.fixture
def fused_groups() -> None:
    """A pass of transformers' own, without a mask, makes no square by itself."""
    query, key = (torch.ones(1, heads, 600, 16, device=DEVICE, dtype=DTYPE) for heads in (HEADS, KV_HEADS))
    with Largest() as seen:
        torch.nn.functional.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)
    if seen.elements >= 600 * 600:
        pytest.skip(f"{NAME}: no fused attention takes grouped heads, so that transformers' own pass makes the square")


def engine_of(name: str, chunk: int = CHUNK) -> SemShareEngine:
    engine = SemShareEngine(tiny_model(name), tiny_tokenizer())
    engine._prefill._forward.chunk_rows = chunk
    return engine


def test_the_spy_sees_a_square_mask() -> None:
    """What the tests below look for is there in a plain forward pass of a model with eager attention."""
    with Largest() as seen:
        full_logits(tiny_model("mpt"), TARGET, 1)
    assert seen.elements >= HEADS * N * N


@whole_blocks_here
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "mpt"])
@pytest.mark.parametrize(
    "reuse",
    [
        "off",
        "exact",
        ReusePolicy(recompute_ratio=0.5),
        ReusePolicy(recompute_ratio=0.5, selection="deviation"),
        ReusePolicy(recompute_ratio=0.5, selection="paper"),
        ReusePolicy(recompute_ratio=0.5, schedule="decay"),
        ReusePolicy(recompute_ratio=1.0),
    ],
    ids=["off", "exact", "combined", "deviation", "paper", "decay", "everything"],
)
def test_the_largest_tensor_is_a_chunk_of_rows(
    name: str, reuse: str | ReusePolicy, masks: list[int], request: pytest.FixtureRequest
) -> None:
    if (name, reuse) == ("llama", "off"):
        request.getfixturevalue("fused_groups")
    engine = engine_of(name)
    engine.warm([PARTS.ravel().tolist()])
    masks.clear()
    with Largest() as seen:
        report = engine.prefill(TARGET.tolist(), reuse=reuse, store=False).report
    assert report.outcome == {"off": "bypass", "exact": "prefix"}.get(
        reuse if isinstance(reuse, str) else "", "semantic"
    )
    if not engine._prefill.spec.by_rows:
        assert bool(masks) != (reuse == "off" and name not in ("mpt", "gemma3")), "fused attention needs none"
    assert max(masks, default=0) <= CHUNK * N
    heads = HEADS if name == "mpt" or reuse == ReusePolicy(recompute_ratio=0.5, selection="paper") else 1
    if engine._prefill.captured is None:  # its passes have a longest of their own
        assert seen.elements <= max(heads * CHUNK * N, 3 * N * 64), "a chunk's scores, or the rows of one layer"


@pytest.mark.usefixtures("fused_groups")
@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.generate(TARGET.tolist(), max_new_tokens=3),
        lambda engine: list(engine.stream(TARGET.tolist(), max_new_tokens=3)),
        lambda engine: engine.warm([TARGET.tolist()]),
        lambda engine: engine.prefill(TARGET.tolist(), reuse=ReusePolicy(level="fast", compress=Retention())),
    ],
    ids=["generate", "stream", "warm", "retention"],
)
def test_every_way_in(call: Callable[[SemShareEngine], object], masks: list[int]) -> None:
    engine = engine_of("llama")
    with Largest() as seen:
        call(engine)
    assert max(masks, default=0) <= CHUNK * N
    assert seen.elements <= HEADS * CHUNK * N


@pytest.mark.usefixtures("fused_groups")
def test_the_engine_as_it_comes(masks: list[int]) -> None:
    """4,000 tokens, nothing changed: a fifth of the square at most."""
    n = 4000
    ids = random_ids(n, seed=2)
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    with Largest() as seen:
        result = engine.prefill(ids.tolist())
    assert max(masks, default=0) <= CHUNK_ROWS * n
    assert seen.elements <= CHUNK_ROWS * n < n * n / 5
    assert_full(result.logits, engine.model, ids)


each_chunk = pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
each_model = pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3", "phi", "mpt"])


@each_model
@each_chunk
def test_the_size_of_a_chunk_changes_no_full_prefill(name: str, chunk: int) -> None:
    ids = random_ids(150, seed=3)
    engine = engine_of(name, chunk)
    assert_full(engine.prefill(ids.tolist(), store=False).logits, engine.model, ids)


@not_low_on_accelerators("rows that round otherwise are ranked otherwise, and other tokens are recomputed")
@each_model
@each_chunk
def test_the_size_of_a_chunk_changes_no_reuse(name: str, chunk: int) -> None:
    ids = random_ids(150, seed=3)
    engine = engine_of(name, chunk)
    near = np.concatenate((ids[:100], ids[:50]))
    whole = engine_of(name, 1000)
    for each in (engine, whole):
        each.warm([near.tolist(), np.roll(ids, 60).tolist()])
    policies = [
        ReusePolicy(recompute_ratio=0.5, schedule="decay"),
        ReusePolicy(recompute_ratio=0.6, selection="random"),
    ]
    if name != "gemma3":  # its windows leave rows that deviate by rounding only, which then ranks them
        policies.append(ReusePolicy(recompute_ratio=0.6, selection="paper"))
    for policy in policies:
        found, same = (each.prefill(np.roll(ids, 30).tolist(), reuse=policy, store=False) for each in (engine, whole))
        assert found.report.outcome == "semantic"
        assert 0 < found.report.reused_tokens == same.report.reused_tokens
        assert_close(found.logits, same.logits)


@not_low_on_cpu("exact takes whole blocks of 512 keys only")
def test_blocks_of_queries_add_up_to_the_whole() -> None:
    """Longer prompts attend in blocks of queries; rows far apart, several chunks, windows."""
    for name in ("llama", "gemma2"):
        engine = engine_of(name, CHUNK_ROWS)
        assert_full(engine.prefill(TARGET.tolist()).logits, engine.model, TARGET)
        assert engine.pool.stats().tokens == N
        longer = np.concatenate((TARGET, random_ids(300, seed=4)))
        result = engine.prefill(longer.tolist(), reuse="exact")
        assert result.report.prefix_tokens == N
        assert_full(result.logits, engine.model, longer)
