"""A model that is rebuilt after the engine was made: layers, windows and positions are looked at anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import UnsupportedModelError
from tiny_models import tiny_model, tiny_tokenizer

TEXT = "A lighthouse stood on the cape, and its keeper lit the lamp every evening at six o'clock. " * 5
MOVED = "The ferry leaves on Sundays. " + TEXT[:350] + "Who lit it?"

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


def _other_window(model: Any) -> None:
    model.config.sliding_window = 4
    for layer in model.model.layers:
        layer.self_attn.sliding_window = layer.self_attn.sliding_window and 4


def _slower_rotation(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def _replaced_layer(model: Any) -> None:
    model.model.layers[1] = copy.deepcopy(model.model.layers[2])
    model.model.layers[1].self_attn.layer_idx = 1


def _reversed_layers(model: Any) -> None:
    model.model.layers = nn.ModuleList(list(model.model.layers)[::-1])
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index


def _fewer_layers(model: Any) -> None:
    model.model.layers = model.model.layers[:3]
    model.config.num_hidden_layers = 3


@pytest.mark.parametrize(
    ("name", "rebuild"),
    [
        ("gemma2", _other_window),
        ("llama", _slower_rotation),
        ("llama", _replaced_layer),
        ("llama", _reversed_layers),
        ("llama", _fewer_layers),
    ],
)
def test_a_rebuilt_model_is_served_as_one_that_always_was_so(name: str, rebuild: Callable[[Any], None]) -> None:
    model: Any = tiny_model(name)
    engine = SemShareEngine(model, tiny_tokenizer())
    engine.warm([TEXT])
    rebuild(model)
    assert engine.prefill(MOVED, reuse=ReusePolicy(recompute_ratio=0.3), store=False).report.outcome != "semantic"
    fresh = SemShareEngine(model, tiny_tokenizer())
    for each in (engine, fresh):
        each.warm([TEXT])
    for reuse in ("exact", ReusePolicy(recompute_ratio=0.3), ReusePolicy(recompute_ratio=1.0)):
        ours, theirs = (each.prefill(MOVED, reuse=reuse, store=False) for each in (engine, fresh))
        assert ours.report.outcome == theirs.report.outcome
        torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        full = model(input_ids=torch.tensor([engine.token_ids(MOVED)])).logits[0, -1]
    torch.testing.assert_close(ours.logits, full, atol=1e-4, rtol=1e-4)


def test_a_layer_too_few_is_said() -> None:
    model: Any = tiny_model("llama")
    engine = SemShareEngine(model, tiny_tokenizer())
    del model.model.layers[3]
    with pytest.raises(UnsupportedModelError, match="no list of 4 decoder layers"):
        engine.generate(TEXT, max_new_tokens=2)


def test_training_and_switching_adapters_need_no_new_look() -> None:
    from peft import LoraConfig

    model: Any = tiny_model("llama")
    engine = SemShareEngine(model, tiny_tokenizer())
    before = engine._prefill.spec
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False), "a")
    engine.warm([TEXT])
    model.model.layers[1].mlp.up_proj.weight.data.mul_(1.5)
    model.disable_adapters()
    engine.generate(MOVED, max_new_tokens=2)
    assert engine._prefill.spec is before
