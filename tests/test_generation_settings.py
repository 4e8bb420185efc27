"""transformers' own generation settings mean with us what they mean there, and leave right rows in the pool."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pooled import rows_of
from semshare_core import SemShareEngine
from semshare_core.errors import ConfigError
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import random_ids, reference_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

IDS = random_ids(80, seed=5).tolist()
NEW = 12


class Only(LogitsProcessor):
    """Forbids every token but a few."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, 20:] = -torch.inf
        return scores


def plain(model: PreTrainedModel, **settings: Any) -> list[int]:
    """What transformers answers, cache or no cache."""
    prompt = torch.tensor([IDS])
    made = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=False, **settings
    )
    return (made if isinstance(made, torch.Tensor) else made.sequences)[0, len(IDS) :].tolist()


def check(model: PreTrainedModel, expected: list[int], **settings: Any) -> None:
    """The same answer cold, behind a prefix, and behind what the answers before left in the pool."""
    transformers.logging.set_verbosity_error()
    engine = SemShareEngine(model, tiny_tokenizer())
    for prepared in (None, IDS[:60], None):
        if prepared is not None:
            engine.pool.clear()
            engine.warm([prepared])
        answer = engine.generate(IDS, max_new_tokens=NEW, reuse="exact", **settings)
        assert answer.token_ids == expected
        assert answer.report.outcome == (
            "prefix" if engine.pool.stats().entries and answer.report.prefix_tokens else "miss"
        )
    for entry in engine.pool._books.chosen(None):
        for kept, computed in zip(rows_of(entry), reference_of(model, entry.tokens).rows, strict=True):
            torch.testing.assert_close(kept[0], computed[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(kept[1], computed[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 5, "eos_token_id": 109},
        {"bad_words_ids": [[109]]},
        {"suppress_tokens": [171, 226]},
        {"forced_eos_token_id": 7},
        {"guidance_scale": 1.5},
        {"prefill_chunk_size": 8},
        {"eos_token_id": [171, 5]},
        {"num_beams": 1},
        {"return_dict_in_generate": True, "output_scores": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings(settings: dict[str, Any]) -> None:
    model = tiny_model("llama")
    expected = plain(model, **settings)
    if next(iter(settings)) not in ("prefill_chunk_size", "num_beams", "return_dict_in_generate"):
        assert expected != plain(model), "the setting does something"
    check(model, expected, **settings)


def test_logits_processors() -> None:
    model = tiny_model("llama")
    processors = LogitsProcessorList([Only()])
    expected = plain(model, logits_processor=processors)
    assert max(expected) < 20
    check(model, expected, logits_processor=processors)


@pytest.mark.parametrize(
    "settings",
    [
        {"assistant_model": object()},
        {"prompt_lookup_num_tokens": 3},
        {"prompt_lookup_num_tokens": 1},
        {"assistant_early_exit": 2},
        {"assistant_early_exit": 1},
    ],
)
def test_assisted_decoding_is_refused(settings: dict[str, Any]) -> None:
    """transformers runs a filled cache over the whole prompt again in its first step: wrong answers, so none."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    with pytest.raises(ConfigError, match="assisted decoding"):
        engine.generate("The quick brown fox", max_new_tokens=4, **settings)


def test_without_transformers_cache() -> None:
    """``use_cache=False`` asks for slow decoding, not for another answer; and our cache is there anyway."""
    model = tiny_model("llama")
    check(model, plain(model), use_cache=False)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"use_cache": False}),
        ("gemma2", {"cache_implementation": "hybrid"}),
        ("llama", {"cache_implementation": "static"}),
        ("llama", {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20}),
        ("llama", {"do_sample": True, "temperature": 0.6, "min_p": 0.1, "typical_p": 0.9}),
        ("llama", {"max_length": 20}),
        ("llama", {"pad_token_id": None, "eos_token_id": [256, 257]}),
        ("llama", {"pad_token_id": None, "eos_token_id": None}),
    ],
    ids=str,
)
def test_what_a_model_brings_along(name: str, settings: dict[str, Any]) -> None:
    """The generation config of a published model may hold any of these."""
    expected = plain(tiny_model(name))
    model = tiny_model(name)
    for key, value in settings.items():
        setattr(model.generation_config, key, value)
    check(model, expected)
