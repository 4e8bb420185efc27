"""Models whose code does something else with rows, masks or attention than most: served right, or refused."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DogeConfig, DogeForCausalLM, FalconConfig, FalconForCausalLM, PreTrainedModel

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.errors import UnsupportedModelError
from semshare_core.model.spec import measure_spec
from semshare_core.prefill.trial import try_out
from tiny_models import CONTEXT, HEADS, HIDDEN, LAYERS, SPREAD, TINY, VOCAB, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "initializer_range": SPREAD,
    "eos_token_id": 256,
    "bos_token_id": 257,
    "pad_token_id": 258,
}
LONG = "\n\n".join(PARAGRAPHS * 3)
MOVED = "\n\n".join(PARAGRAPHS[::-1] * 3) + "\n\nWhich of them is about the sea?"
WIDE = ReusePolicy(recompute_ratio=1.0)


def falcon(attention: str, **more: Any) -> PreTrainedModel:
    config = FalconConfig(**SHAPE | {"alibi": False, "attn_implementation": attention} | more)
    torch.manual_seed(0)
    return FalconForCausalLM(config).eval().requires_grad_(False)


def doge(attention: str) -> PreTrainedModel:
    config = DogeConfig(**SHAPE, intermediate_size=HIDDEN, num_key_value_heads=2, attn_implementation=attention)
    torch.manual_seed(0)
    return DogeForCausalLM(config).eval().requires_grad_(False)


def logits(engine: SemShareEngine, policy: str | ReusePolicy) -> tuple[str, torch.Tensor]:
    engine.pool.clear()
    engine.warm([LONG])
    prefilled = engine.prefill(MOVED, reuse=policy, store=False)
    return prefilled.report.outcome, prefilled.logits


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_whose_attention_is_fixed(attention: str) -> None:
    """With ``sdpa`` nothing can be watched, which is said at once; with ``eager`` the weights come back."""
    model = falcon(attention)
    if attention == "sdpa":
        with pytest.warns(UserWarning, match="shows no weights.*attn_implementation='eager'"):
            engine = SemShareEngine(model, tiny_tokenizer())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            engine = SemShareEngine(model, tiny_tokenizer())
    _, full = logits(engine, "off")
    for policy in ("balanced", ReusePolicy(recompute_ratio=0.2), ReusePolicy.cacheblend()):
        outcome, reused = logits(engine, policy)
        assert outcome == "semantic"
        assert not torch.equal(reused, full)
    outcome, everything = logits(engine, WIDE)
    assert outcome == "semantic"
    assert torch.allclose(everything, full, atol=1e-4)
    with pytest.raises(UnsupportedModelError, match="compress=None"):
        logits(engine, ReusePolicy.paper())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_with_a_mask_per_head(attention: str) -> None:
    engine = SemShareEngine(doge(attention), tiny_tokenizer())
    assert len(MOVED) > 1024, "long enough for blocks of queries"
    _, full = logits(engine, "off")
    outcome, everything = logits(engine, WIDE)
    assert outcome == "semantic"
    assert torch.allclose(everything, full, atol=1e-4)


def test_a_model_that_needs_its_own_mask_is_refused() -> None:
    """ALiBi of Falcon is made from the two-dimensional mask, for which chosen rows have no form."""
    with pytest.raises(UnsupportedModelError, match="computing chosen rows of a prompt failed"):
        SemShareEngine(falcon("sdpa", alibi=True, multi_query=False), tiny_tokenizer())


def test_a_model_whose_layers_read_something_else_is_refused() -> None:
    model = tiny_model("llama")
    norm = model.model.layers[2].input_layernorm
    norm.register_forward_hook(lambda _, args, output: output * output.shape[1])  # the number of rows
    with pytest.raises(UnsupportedModelError, match="rows computed in parts are not those of one pass"):
        SemShareEngine(model, tiny_tokenizer())


def test_a_model_in_training_is_put_into_evaluation() -> None:
    model = tiny_model("gpt_neox")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    engine = SemShareEngine(model.train(), tiny_tokenizer())
    assert not engine.model.training


@pytest.mark.parametrize("name", TINY)
def test_the_others_are_observable(name: str) -> None:
    model = tiny_model(name)
    spec = try_out(model, measure_spec(model))
    assert spec.observable
    whole = model.config._attn_implementation == "sdpa" and not any(spec.windows)
    assert spec.causal_without_mask == whole
    assert np.all([not layer._forward_pre_hooks for layer in spec.layers])
