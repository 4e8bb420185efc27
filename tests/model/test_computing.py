"""Calls compute in eval mode, without gradients and outside inference mode, whatever caller and model are set to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import CallCancelledError
from semshare_core.model.cache_argument import with_cache
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 5
ASKED = TEXT + "Who lit it?"
MOVED = "The ferry leaves on Sundays. " + TEXT[:350] + "Who lit it?"

pytestmark = pytest.mark.usefixtures("one_thread")


def dropping() -> LlamaForCausalLM:
    config: LlamaConfig = tiny_model("llama").config
    config.attention_dropout = 0.5
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def engine_of(model: Any, **settings: Any) -> SemShareEngine:
    return SemShareEngine(model, tiny_tokenizer(), **settings)


def stored(engine: SemShareEngine) -> list[Tensor]:
    entries = list(engine.pool._entries.chosen(None))
    return [tensor for entry in entries for piece in entry.segments for tensor in piece.rows.layer(1)]


def _generate(engine: SemShareEngine, prompt: str) -> list[int]:
    return engine.generate(prompt, max_new_tokens=8, reuse="exact").token_ids


def _stream(engine: SemShareEngine, prompt: str) -> list[int]:
    ids = list(engine.stream(prompt, max_new_tokens=8, reuse="exact"))[-1].token_ids
    assert ids is not None
    return ids


def _prefill(engine: SemShareEngine, prompt: str) -> list[int]:
    return [int(engine.prefill(prompt, reuse="exact").logits.argmax())]


def _warm(engine: SemShareEngine, prompt: str) -> list[int]:
    engine.warm([prompt])
    return _prefill(engine, prompt + "?")


CALLS = [_generate, _stream, _prefill, _warm]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_in_training_answers_as_in_eval_mode(
    call: Callable[[SemShareEngine, str], list[int]], checkpointing: bool, recwarn: pytest.WarningsRecorder
) -> None:
    expected = [call(engine_of(dropping()), prompt) for prompt in (TEXT, ASKED)]
    model = dropping()
    engine = engine_of(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.model.layers[1].eval()  # one module is not in training
    flags = [module.training for module in model.modules()]
    assert [call(engine, prompt) for prompt in (TEXT, ASKED)] == expected
    assert [module.training for module in model.modules()] == flags
    assert engine.prefill(ASKED, reuse="exact", store=False).report.outcome == "prefix"
    model.eval()
    assert engine.prefill(ASKED, reuse="exact", store=False).report.outcome == "prefix", "the same rows"
    assert not [warning for warning in recwarn if "use_cache" in str(warning.message)], "computed with its cache"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_call_that_fails_leaves_every_module_in_its_mode(error: type[BaseException]) -> None:
    model: Any = dropping()
    engine = engine_of(model)
    model.train()
    model.lm_head.eval()
    flags = [module.training for module in model.modules()]

    def fail(*_: object) -> None:
        raise error

    handle = model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(error):
        engine.generate(TEXT, max_new_tokens=2)
    handle.remove()
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CallCancelledError):
        engine.generate(TEXT, max_new_tokens=2, cancel=cancel)
    assert [module.training for module in model.modules()] == flags


def test_a_training_step_behind_a_call_has_its_gradients() -> None:
    model: Any = tiny_model("llama").requires_grad_(True)
    engine = engine_of(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        ids = engine.token_ids(TEXT)
        engine.generate(ids, max_new_tokens=4, reuse="exact")
        full = model.eval()(input_ids=torch.tensor([ids])).logits[0, -1]
        found = engine.prefill(ids, reuse="exact", store=False)
        torch.testing.assert_close(found.logits, full, atol=1e-4, rtol=1e-4)
        model.train()
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
        loss.backward()
        optimizer.step()
        assert engine.prefill([*ids, 65], reuse="exact", store=False).report.outcome == "miss"


@pytest.mark.parametrize("call", CALLS)
def test_what_is_made_in_inference_mode_is_of_use_outside(call: Callable[[SemShareEngine, str], list[int]]) -> None:
    model = tiny_model("llama").requires_grad_(True)
    with torch.inference_mode():
        engine = engine_of(model)
        call(engine, TEXT)
    assert stored(engine)
    assert not any(tensor.is_inference() for tensor in stored(engine))
    for reuse in ("exact", ReusePolicy(recompute_ratio=0.3)):
        engine.generate(MOVED, max_new_tokens=3, reuse=reuse)
    with torch.inference_mode():
        found = engine.prefill(ASKED, reuse="exact")
    assert found.report.outcome == "prefix"
    assert not found.logits.is_inference()
    output = model(input_ids=torch.tensor([[65]]), **with_cache(model, found.cache), use_cache=True)  # by any loop
    output.logits.sum().backward()


def test_the_canary_measures_a_model_in_training_in_eval_mode() -> None:
    model = dropping()
    engine = engine_of(model)
    engine.warm([TEXT])
    model.train()
    engine.generate(TEXT + "?", reuse=ReusePolicy(recompute_ratio=1.0, canary=1.0), max_new_tokens=4)
    engine.generate(MOVED, reuse=ReusePolicy(recompute_ratio=1.0, canary=1.0), max_new_tokens=4)
    assert engine.canary.wait(60)
    assert engine.canary.counts().measured
    assert all(result.kl is not None and result.kl < 1e-4 for result in engine.canary.results())
    assert model.training
