"""An engine as on a GPU: the same answers. Run by tests/prefill/test_on_a_gpu.py, in a process of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from pretended_gpu import pretend
from semshare_core import Generation, PoolConfig, ReusePolicy, SemShareEngine
from semshare_core.model.attention.by_rows import chosen
from semshare_core.prefill import captured, lay_kernel
from semshare_core.prefill.captured import CapturedPasses
from semshare_core.prefill.forward import RowForward
from semshare_core.prefill.fused_norms import fused, rms_norms
from tiny_models import LAYERS, tiny_model, tiny_tokenizer

CAPTURE = CapturedPasses._capture
POLICY = ReusePolicy(recompute_ratio=0.4)
PARTS = np.random.default_rng(3).integers(0, 200, (6, 24))
QUESTION = list(range(1, 13))

pytestmark = pytest.mark.filterwarnings("ignore")


def prompt(seed: int) -> list[int]:
    """The parts in another order, and a question."""
    return [*PARTS[np.random.default_rng(seed).permutation(6)].ravel().tolist(), 200 + seed, *QUESTION]


def engine_of(name: str) -> SemShareEngine:
    return SemShareEngine(tiny_model(name), tiny_tokenizer(), policy=POLICY, pool=PoolConfig(heal=False))


def told(answer: Generation) -> tuple[Any, ...]:
    report = answer.report
    return answer.token_ids, report.outcome, report.token_recomputed, round(report.recompute_ratio, 6)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What ran on the pretended GPU."""
    counted: Counter[str] = Counter()

    def watch(owner: Any, name: str) -> None:
        plain = getattr(owner, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return plain(*arguments, **named)

        monkeypatch.setattr(owner, name, counting)

    for name in ("logits", "influence", "step"):
        watch(CapturedPasses, name)
    watch(lay_kernel, "lay_on_device")
    return counted


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "mpt"])
def test_answers_are_those_without(name: str, counts: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine_of(name)
    expected = [told(plain.generate(prompt(seed), max_new_tokens=4)) for seed in range(4)]
    pretend(monkeypatch)
    engine = engine_of(name)
    found = [told(engine.generate(prompt(seed), max_new_tokens=4)) for seed in range(4)]
    assert found == expected
    assert [outcome for _, outcome, *_ in found] == ["miss", *["semantic"] * 3]
    by_rows = name != "mpt"  # it adds ALiBi's bias to its mask
    assert engine._prefill.spec.by_rows == by_rows
    assert (counts["lay_on_device"] >= 3) == by_rows
    assert (counts["logits"], counts["step"]) == ((2, 6) if by_rows else (0, 0)), "the first reuse shows the shapes"
    assert (counts["influence"] > 0) == by_rows


def test_a_cache_that_the_caller_keeps_is_his(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    engine = engine_of("llama")
    engine.warm([prompt(0)])
    kept = [engine.prefill(prompt(seed), store=False) for seed in (1, 2)]
    before = [[layer.keys.clone() for layer in each.cache.layers] for each in kept]
    for seed in (3, 4):
        engine.generate(prompt(seed), max_new_tokens=3)
    for each, rows in zip(kept, before, strict=True):
        assert all(torch.equal(layer.keys, row) for layer, row in zip(each.cache.layers, rows, strict=True))


def test_a_stream_that_is_left_or_read_late_changes_no_other_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = engine_of("llama")
    expected.warm([prompt(0)])
    wanted = [told(expected.generate(prompt(seed), max_new_tokens=3, store=False)) for seed in (1, 2, 3)]
    pretend(monkeypatch)
    engine = engine_of("llama")
    engine.warm([prompt(0)])
    assert told(engine.generate(prompt(1), max_new_tokens=3, store=False)) == wanted[0]
    stream = engine.stream(prompt(2), max_new_tokens=3, store=False)
    next(iter(stream))
    stream.close()
    assert told(engine.generate(prompt(2), max_new_tokens=3, store=False)) == wanted[1]
    assert told(engine.generate(prompt(3), max_new_tokens=3, store=False)) == wanted[2]


def test_longer_prompts_get_a_larger_home(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(captured, "_HOME_STEP", 8)
    engine, plain = engine_of("llama"), engine_of("llama")
    plain._prefill.captured = None
    for each in (engine, plain):
        each.warm([prompt(0)])
    for n in (60, 80, 130, 157):
        both = [each.generate(prompt(1)[-n:], max_new_tokens=3, store=False) for each in (engine, plain)]
        assert both[0].token_ids == both[1].token_ids


def test_nothing_is_left_behind_by_a_pass_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    engine = engine_of("llama")
    engine.warm([prompt(0)])
    for seed in (1, 2):
        engine.generate(prompt(seed), max_new_tokens=2, store=False)
    expected = told(engine.generate(prompt(3), max_new_tokens=3, store=False))
    before, attention = dict(engine.model.__dict__), engine.model.config._attn_implementation
    call, passes = RowForward.call, [0]

    def failing(self: RowForward, *arguments: Any, **named: Any) -> Any:
        result = call(self, *arguments, **named)
        passes.pop()
        if not passes:
            raise MemoryError("planted")
        return result

    for number in (1, 2):  # while the question is watched, and while the chosen rows are computed
        passes = [0] * number
        with monkeypatch.context() as patch:
            patch.setattr(RowForward, "call", failing)
            with pytest.raises(MemoryError, match="planted"):
                engine.generate(prompt(3), max_new_tokens=3, store=False)
        assert dict(engine.model.__dict__) == before
        assert engine.model.config._attn_implementation == attention
        assert chosen.marker is chosen.rows is chosen.watch is None
        assert not any(module._forward_pre_hooks for module in engine.model.modules())
        assert told(engine.generate(prompt(3), max_new_tokens=3, store=False)) == expected


def test_code_that_cannot_be_captured_is_computed_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGraph:
        """As PyTorch's, when it meets an operation that waits for the device."""

        def __init__(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    pretend(monkeypatch)
    monkeypatch.setattr(CapturedPasses, "_capture", CAPTURE)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph", NoGraph)
    engine = engine_of("llama")
    engine.warm([prompt(0)])
    answers = [told(engine.generate(prompt(1), max_new_tokens=3, store=False)) for _ in range(4)]
    assert answers == [answers[0]] * 4


def test_a_home_that_there_is_no_memory_for_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    engine = engine_of("llama")
    engine.warm([prompt(0)])
    engine.generate(prompt(1)[-60:], max_new_tokens=2, store=False)
    kept = engine.prefill(prompt(1)[-60:], store=False)  # what lived at home last

    def build(self: CapturedPasses, capacity: int) -> None:
        self.drop()
        raise torch.OutOfMemoryError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(CapturedPasses, "_build", build)
        without = told(engine.generate(prompt(2), max_new_tokens=3, store=False))
    assert told(engine.generate(prompt(2), max_new_tokens=3, store=False)) == without
    assert kept.cache.get_seq_length() == 60


def test_norms_are_fused_where_the_function_is_the_same() -> None:
    assert len(rms_norms(tiny_model("llama"))) == 2 * LAYERS + 1
    assert len(rms_norms(tiny_model("qwen3"))) == 4 * LAYERS + 1, "queries and keys have theirs"
    gemma = tiny_model("gemma3")
    for module in gemma.modules():
        if "RMSNorm" in type(module).__name__:
            module.weight.data.normal_()
    assert rms_norms(gemma) == [], "it multiplies by 1 + weight"
    model = tiny_model("llama")
    ids = torch.arange(20)[None]
    expected = model(ids).logits
    with fused(rms_norms(model)):
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)
    assert not any("forward" in module.__dict__ for module in model.modules())
