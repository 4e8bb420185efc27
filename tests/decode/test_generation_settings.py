"""transformers' own generation settings mean with us what they mean there, and leave right rows in the pool."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from pooled import rows_of
from semshare_core import SamplingParams, SemShareEngine
from semshare_core.decode.settings import SETTINGS
from semshare_core.decode.stop_strings import AnswerText
from semshare_core.errors import ConfigError, GenerationWarning
from semshare_integrations.langchain import SemShareLLM
from semshare_integrations.llama_index import SemShareLLM as LlamaIndexLLM
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import random_ids, reference_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]

IDS = random_ids(80, seed=5).tolist()
NEW = 12
NO_OTHER_ANSWER = (
    "prefill_chunk_size",
    "num_beams",
    "return_dict_in_generate",
    "output_attentions",
    "length_penalty",
    "renormalize_logits",
    "top_k",
)


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
    for entry in engine.pool._entries.chosen(None):
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
        {"output_attentions": True, "output_hidden_states": True, "output_logits": True},
        {"length_penalty": 2.0, "early_stopping": True, "num_assistant_tokens": 5},
        {"min_length": 90, "eos_token_id": 109},
        {"begin_suppress_tokens": [109, 171]},
        {"exponential_decay_length_penalty": (2, 9.0), "eos_token_id": 7},
        {"encoder_repetition_penalty": 0.5},
        {"encoder_no_repeat_ngram_size": 1},
        {"sequence_bias": [[[109], -50.0]]},
        {"renormalize_logits": True},
        {"watermarking_config": {"greenlist_ratio": 0.5, "bias": 20.0}},
        {"top_k": 3, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings(settings: dict[str, Any]) -> None:
    model = tiny_model("llama")
    expected = plain(model, **settings)
    if next(iter(settings)) not in NO_OTHER_ANSWER:
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
        ("llama", {"prompt_lookup_num_tokens": 3}),
        ("llama", {"assistant_early_exit": 2, "num_assistant_tokens": 4, "is_assistant": True}),
        ("llama", {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}),
        ("llama", {"remove_invalid_values": True}),
        ("llama", {"length_penalty": 2.0, "early_stopping": True, "diversity_penalty": 0.5}),
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


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"num_beams": 2, "num_return_sequences": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "high"},
        {"force_words_ids": [[7]]},
        {"constraints": ["any"]},
        {"token_healing": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_a_model_brings_along_and_is_passed_over(settings: dict[str, Any]) -> None:
    """transformers would decode otherwise, or load code from the hub; the engine says so once and answers."""
    expected = plain(tiny_model("llama"))
    model = tiny_model("llama")
    for key, value in settings.items():
        setattr(model.generation_config, key, value)
    with pytest.warns(GenerationWarning, match=next(iter(settings))):
        SemShareEngine(model, tiny_tokenizer())
    check(model, expected)
    assert all(getattr(model.generation_config, key) == value for key, value in settings.items()), "left as it was"


@pytest.mark.parametrize("name", sorted({*GenerationConfig().to_dict(), *SETTINGS}))
def test_the_table_knows_every_field(name: str) -> None:
    """A new transformers with a new field: decide what becomes of it, and say it in the table."""
    setting = SETTINGS[name]
    assert setting.why
    assert not setting.warns or setting.treatment == "refused"
    if setting.treatment == "refused" and name in GenerationConfig().to_dict():
        engine = tiny_engine()
        with pytest.raises(ConfigError, match=f"{name}=.* is not supported: "):
            engine.generate("x", **{name: 7})
        assert engine.generate("x", max_new_tokens=1, **{name: setting.instead}).token_ids


def test_the_guide_names_what_is_refused() -> None:
    page = (Path(__file__).parents[2] / "docs" / "generation.md").read_text()
    refused = [name for name, setting in SETTINGS.items() if setting.treatment == "refused"]
    assert not [name for name in refused if f"`{name}`" not in page]


@cache
def tiny_engine() -> SemShareEngine:
    return SemShareEngine(tiny_model("llama"), tiny_tokenizer())


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"do_sample": True, "top_k": 1}, "temperature=1.0 samples"),
        ({"do_sample": True, "temperature": 0}, "temperature=1.0 samples"),
        ({"do_sample": False, "temperature": 0.7}, "temperature=0 is greedy"),
    ],
    ids=str,
)
def test_settings_of_sampling_that_contradict_each_other(settings: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        tiny_engine().generate(IDS, **settings)
    with pytest.raises(ConfigError, match=remedy):
        SemShareLLM(engine=tiny_engine()).invoke("x", **settings)


def test_sampling_means_what_transformers_means() -> None:
    engine = tiny_engine()
    greedy = engine.generate(IDS, max_new_tokens=NEW).token_ids
    assert engine.generate(IDS, max_new_tokens=NEW, do_sample=True, temperature=1.0, top_k=1).token_ids == greedy
    assert engine.generate(IDS, max_new_tokens=NEW, do_sample=False).token_ids == greedy
    prompt = torch.tensor([IDS])
    for seed in range(3):
        torch.manual_seed(seed)
        expected = engine.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW, do_sample=True, temperature=3.0, top_k=9
        )
        answer = engine.generate(IDS, max_new_tokens=NEW, temperature=3.0, top_k=9, seed=seed, reuse="off")
        assert answer.token_ids == expected[0, len(IDS) :].tolist() != greedy


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": -1},
        {"min_p": 7},
        {"bad_words_ids": "no"},
        {"sequence_bias": "x"},
        {"max_time": "soon"},
        {"max_time": 0},
    ],
    ids=str,
)
def test_values_that_transformers_refuses_are_our_error(settings: dict[str, Any]) -> None:
    engine = tiny_engine()
    entries = engine.pool.stats().entries
    with pytest.raises(ConfigError):
        engine.generate(IDS, max_new_tokens=2, temperature=1.0, **settings)
    assert engine.pool.stats().entries == entries


# How an answer ends


class Force(LogitsProcessor):
    """Makes the model say ``ids``, and then the last of them for ever."""

    def __init__(self, ids: Sequence[int], prompt_tokens: int) -> None:
        self._ids, self._start = list(ids), prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = min(input_ids.shape[1] - self._start, len(self._ids) - 1)
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._ids[at]] = 0
        return forced


def said(text: str, prompt: str = "Well?") -> dict[str, Any]:
    """The settings that make a model answer ``prompt`` by ``text``."""
    ids = tiny_tokenizer()(text)["input_ids"]
    return {"logits_processor": [Force(ids, len(tiny_tokenizer()(prompt)["input_ids"]))], "max_new_tokens": len(ids)}


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["<|start|>"], "Yes.\n"),
        (["\n<|start|>user"], "Yes."),
        (["<|start|>user\nAnd"], "Yes.\n"),
        ([".\n<|start|>", "<|start|>"], "Yes"),
        (["es", "<|start|>"], "Y"),
        (["<|start|>assistant"], "Yes.\nuser\nAnd now?"),
        (["Yes.\nuser"], ""),
        (["<|start|", "nothing"], "Yes.\nuser\nAnd now?"),
    ],
    ids=str,
)
def test_stop_strings_that_hold_special_tokens(stop: list[str], expected: str) -> None:
    engine = tiny_engine()
    settings = said("Yes.\n<|start|>user\nAnd now?")
    answer = engine.generate("Well?", stop=stop, store=False, **settings)
    whole = expected.endswith("now?")
    assert (answer.text, answer.finish_reason) == (expected, "length" if whole else "stop")
    pieces = list(engine.stream("Well?", stop=stop, store=False, **settings))
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish_reason == answer.finish_reason
    assert SemShareLLM(engine=engine, stop=stop).invoke("Well?", **settings) == expected
    assert LlamaIndexLLM(engine=engine, stop=stop).complete("Well?", **settings).text == expected


def test_a_token_that_reaches_into_a_stop_string_with_a_special_token() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["s.\n"])
    ids = tokenizer("Yes.\n<|start|>user")["input_ids"]
    assert len(ids) == 8
    text = AnswerText(tokenizer, ["\n<|start|>user"], [])
    assert [text.settled(ids[:length]) for length in range(9)] == ["", "Y", "Ye", *["Yes."] * 6]
    assert [text.stopped(ids[:length]) for length in range(9)] == [False] * 8 + [True]
    assert text.of(ids) == "Yes."


@pytest.mark.parametrize("own", [257, [257, 258], None], ids=str)
def test_the_tokenizers_end_token_that_the_config_lacks_ends_an_answer(own: Any) -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = own
    engine = SemShareEngine(model, tiny_tokenizer())
    settings = {**said("Yes.<|end|>And so on"), "store": False}
    answer = engine.generate("Well?", **settings)
    assert (answer.text, answer.finish_reason, answer.token_ids[-1]) == ("Yes.", "stop", 256)
    assert engine.generate("Well?", **said("Yes.<|end|>")).finish_reason == "stop"
    for ends in (ord("A"), None):  # who says which tokens end an answer is heard
        answer = engine.generate("Well?", eos_token_id=ends, **settings)
        assert answer.text == ("Yes.And so on" if ends is None else "Yes.A")
    if own is not None:
        assert engine.generate("Well?", **said("Yes.<|start|>And so on")).finish_reason == "stop"


@pytest.mark.parametrize("own", ["n", ["zz", "<|start|>"]], ids=str)
def test_a_models_own_stop_strings_are_honoured(own: Any) -> None:
    model = tiny_model("llama")
    model.generation_config.stop_strings = own
    engine = SemShareEngine(model, tiny_tokenizer())
    settings = {**said("Yes.<|start|>And so on"), "store": False}
    expected = "Yes.A" if own == "n" else "Yes."
    assert engine.generate("Well?", **settings).text == expected
    assert "".join(piece.text for piece in engine.stream("Well?", **settings)) == expected
    assert engine.generate("Well?", stop=["s"], **settings).text == "Ye"


def test_an_answer_that_ends_for_want_of_time_was_cut_off() -> None:
    engine = tiny_engine()
    for ended in (engine.generate(IDS, max_time=1e-9), list(engine.stream(IDS, max_time=1e-9))[-1]):
        assert (len(ended.token_ids), ended.finish_reason) == (1, "length")
    model = tiny_model("llama")
    model.generation_config.max_time = 1e-9
    answer = SemShareEngine(model, tiny_tokenizer()).generate(IDS)
    assert (len(answer.token_ids), answer.finish_reason) == (1, "length")


def test_sampling_params_are_taken_whole_or_field_by_field() -> None:
    engine = tiny_engine()
    params = SamplingParams(max_new_tokens=5, temperature=0.8, seed=7, top_k=40)
    prompt = "Once upon a time"
    whole = engine.generate(prompt, params, store=False)
    named = engine.generate(prompt, max_new_tokens=5, temperature=0.8, seed=7, top_k=40, store=False)
    assert whole.token_ids == named.token_ids
    assert engine.generate(prompt, params, max_new_tokens=2, store=False).token_ids == whole.token_ids[:2]
    assert [*engine.stream(prompt, params, store=False)][-1].token_ids == whole.token_ids
    with pytest.raises(ConfigError, match="SamplingParams"):
        engine.generate(prompt, 64)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers() -> None:
    """As from a sweep over ``np.arange`` or a row of a data frame."""
    whole, half = np.int64(3), np.float32(0.5)
    settings = dict.fromkeys(("max_new_tokens", "seed", "top_k", "no_repeat_ngram_size", "min_new_tokens"), whole)
    params = SamplingParams(**settings, temperature=half, top_p=half, do_sample=np.True_, max_time=float("inf"))
    assert {type(getattr(params, name)) for name in settings} == {int}
    assert (params.temperature, params.top_p, params.do_sample) == (0.5, 0.5, True)
    assert len(tiny_engine().generate("Once upon a time", params, store=False).token_ids) == 3
    for mistake in ({"top_k": np.True_}, {"top_k": np.float64(3)}, {"max_time": float("nan")}, {"seed": True}):
        with pytest.raises(ConfigError, match=next(iter(mistake))):
            SamplingParams(**mistake)
