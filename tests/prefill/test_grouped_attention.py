"""Attention that is switched while a call runs: the same sums without copies, the same weights shown, and put back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from same_answer import TOLERANCE, assert_close, cpu_only
from semshare_core.model.attention.grouped import grouped_attention, uses_sdpa
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import measure_spec
from semshare_core.prefill.attention_probe import mean_attention, watch_tail
from semshare_core.prefill.cache import MergedCache
from tiny_models import DEVICE, HEADS, KV_HEADS, LAYERS, tiny_model
from tiny_reuse import random_ids, reference_of

pytestmark = pytest.mark.usefixtures("one_thread")

N, TAIL = 60, 9
GROUPED = ["llama", "mistral_sliding", "qwen3", "cohere", "smollm3"]
grouped_here = cpu_only("heads are grouped on the CPU only, whose fused attention takes them with a mask")


@torch.no_grad()
def tail_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits of the last tokens behind a cached prefix: several queries, so that there is a mask."""
    ids = torch.as_tensor(random_ids(N, seed=2), device=DEVICE)[None]
    cache = DynamicCache()
    model(input_ids=ids[:, :-TAIL], **with_cache(model, cache), use_cache=True)
    return model(input_ids=ids[:, -TAIL:], **with_cache(model, cache), use_cache=True).logits[0]


@grouped_here
@pytest.mark.parametrize("name", GROUPED)
def test_the_sums_are_the_same(name: str) -> None:
    model = tiny_model(name)
    expected = tail_logits(model)
    with grouped_attention(model):
        assert_close(tail_logits(model), expected, atol=1e-6)


@grouped_here
def test_keys_are_not_copied_for_every_head(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HEADS > KV_HEADS
    model = tiny_model("llama")
    seen: list[int] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, key: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if kwargs.get("attn_mask") is not None:
            seen.append(key.shape[1])
        return original(query, key, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    tail_logits(model)
    assert set(seen) == {HEADS}, "what transformers does by itself"
    seen.clear()
    with grouped_attention(model):
        tail_logits(model)
    assert seen == [KV_HEADS] * LAYERS


@grouped_here
def test_it_is_put_back_whatever_happens() -> None:
    model = tiny_model("llama")

    def fail() -> None:
        with grouped_attention(model):
            assert model.config._attn_implementation != "sdpa"
            assert uses_sdpa(model)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ["llama", "mpt"])
def test_eager_models_are_left_alone(name: str) -> None:
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    with grouped_attention(model):
        assert model.config._attn_implementation == "eager"
        assert not uses_sdpa(model)


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("grouped", [True, False])
def test_the_weights_shown_are_those_of_eager_attention(name: str, grouped: bool) -> None:
    """Seen over the model's own rows, with either attention: what eager attention returns for the whole prompt."""
    ids = random_ids(N, seed=3)
    model = tiny_model(name)
    reference = reference_of(model, ids)

    def watched() -> np.ndarray:
        cache = MergedCache(LAYERS, N)
        for layer, (keys, values) in zip(cache.layers, reference.rows, strict=True):
            layer.allocate(keys, values, keys.device)
            for buffer, rows in zip(layer.buffers, (keys, values), strict=True):
                buffer.copy_(rows)
        return watch_tail(
            model, measure_spec(model), cache, torch.as_tensor(ids, device=DEVICE), N, TAIL, mean_attention
        )

    if grouped:
        with grouped_attention(model):
            seen = watched()
    else:
        seen = watched()
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(input_ids=torch.as_tensor(ids, device=DEVICE)[None], output_attentions=True).attentions
    for layer in range(LAYERS - 1):  # the pass ends at the last layer's keys, which borrows what the one before saw
        expected = attentions[layer][0, :, -TAIL:].mean(dim=(0, 1))
        assert_close(torch.as_tensor(seen[layer], dtype=torch.float32), expected.float().cpu(), atol=TOLERANCE / 10)
    np.testing.assert_array_equal(seen[-1], seen[-2])
