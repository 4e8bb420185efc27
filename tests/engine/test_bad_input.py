"""Bad input: an error of ours that says what to do, a pool as it was, and an engine that works on.

Models and GGUF files that cannot be loaded are in ``test_models.py`` and ``test_refused_models.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import HumanMessage

from semshare_core import Chat, PoolConfig, Retention, ReusePolicy, SemShareEngine
from semshare_core.errors import (
    ConfigError,
    ModelNotFoundError,
    PromptError,
    SemShareError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from semshare_integrations.langchain import SemShareLLM
from tiny_models import CONTEXT, VOCAB, tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS[:2])
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def shared() -> tuple[SemShareEngine, list[int]]:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm([TEXT])
    return engine, engine.generate(TEXT, max_new_tokens=4, store=False).token_ids


@pytest.fixture
def engine(shared: tuple[SemShareEngine, list[int]]) -> Iterator[SemShareEngine]:
    """Checks afterwards that nothing was left behind."""
    engine, answer = shared
    before = engine.pool.stats()
    yield engine
    assert engine.pool.stats() == before
    assert not engine._lock.locked()
    hooks = [len(layer._forward_pre_hooks) for layer in engine.model.model.layers]
    assert hooks == [0] * len(hooks)
    assert engine.generate(TEXT, max_new_tokens=4, store=False).token_ids == answer


def refused(error: type[SemShareError], match: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert len(str(caught.value)) > 20


TOKENIZER = tiny_tokenizer()
MESSAGE = {"role": "user", "content": "one message"}

BAD_PROMPTS: list[tuple[Any, str]] = [
    ("", "empty"),
    ([], "empty"),
    (np.empty(0, np.int64), "empty"),
    ("x" * CONTEXT, "context is 4096"),
    ([1] * CONTEXT, "shorten"),
    ([VOCAB], rf"\[0, {VOCAB}\)"),
    ([5, -1, 7], "token ids must lie"),
    ([2**40], "token ids must lie"),
    ([1.5, 2.0], "flat sequence of integers"),
    ([[1, 2], [3, 4]], r"flat sequence of integers; got list of shape \[2, 2\]: pass one prompt a call"),
    ([[1, 2], [3]], "flat sequence of integers"),
    (["several", "texts"], "flat sequence of integers.*pass one text a call"),
    ([1, "text"], "flat sequence of integers.*with texts"),
    ([1, None], "flat sequence of integers"),
    ([2**70], "flat sequence of integers"),
    ([True, False], "flat sequence of integers.*bool True"),
    ([("user", "hi")], "messages are mappings"),
    ([HumanMessage("hi")], "HumanMessage: messages are mappings"),
    (torch.ones(1, 5, dtype=torch.int64), r"got Tensor of shape \[1, 5\]: pass its first row, prompt\[0\]"),
    (torch.ones(5), "got Tensor of torch.float32"),
    (torch.tensor(5), r"Tensor of shape \[\]"),
    ({1, 2, 3}, "got set"),
    (TOKENIZER("what a tokenizer returns"), "pass what the tokenizer returned under 'input_ids'"),
    (TOKENIZER("tensors", return_tensors="pt"), "'input_ids'"),
    ({"text": "x"}, "got dict with 'text'"),
    (Chat("hi"), "a list of mappings"),  # type: ignore[arg-type]
    (Chat(MESSAGE), "a list of mappings"),  # type: ignore[arg-type]
    (Chat([MESSAGE], tools="search"), "list of OpenAI's function schemas"),  # type: ignore[arg-type]
    (Chat([MESSAGE], tools=[print]), "get_json_schema"),  # type: ignore[list-item]
    ("half a \ud83d", "Unicode"),
    (b"bytes", "text, chat messages or token ids; got bytes"),
    (None, "text|prompt"),
    (5, "text|prompt"),
    (MESSAGE, r"pass \[message\]"),
    ([{"role": "user"}], "message 0 .*'content'"),
    ([{"content": "x"}], "message 0 .*'role'"),
    ([{"role": "user", "content": "x"}, "y"], "message 1"),
    ([{"role": 3, "content": "x"}], "message 0"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD_PROMPTS, ids=lambda value: repr(value)[:30])
def test_prompts(engine: SemShareEngine, prompt: Any, message: str) -> None:
    refused(PromptError, message, lambda: engine.generate(prompt, max_new_tokens=2))
    refused(PromptError, message, lambda: list(engine.stream(prompt, max_new_tokens=2)))
    refused(PromptError, message, lambda: engine.prefill(prompt))
    refused(PromptError, message, lambda: engine.token_ids(prompt))
    refused(PromptError, message, lambda: engine.warm([prompt]))


def test_the_longest_prompt_that_fits(engine: SemShareEngine) -> None:
    assert len(engine.token_ids("x" * (CONTEXT - 1))) == CONTEXT - 1


def test_messages_without_a_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    engine = SemShareEngine(tiny_model("llama"), tokenizer)
    refused(PromptError, "no chat template.*text", lambda: engine.generate([{"role": "user", "content": "x"}]))
    assert engine.generate("x", max_new_tokens=1).token_ids


def test_messages_that_the_template_refuses() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    engine = SemShareEngine(tiny_model("llama"), tokenizer)
    refused(PromptError, "roles must alternate", lambda: engine.generate([{"role": "user", "content": "x"}]))


BAD_CALLS: list[tuple[dict[str, Any], str]] = [
    ({"reuse": "sideways"}, "off, exact, high, balanced, fast"),
    ({"reuse": 0.3}, "ReusePolicy"),
    ({"reuse": ReusePolicy}, "ReusePolicy"),
    ({"max_new_tokens": 0}, "max_new_tokens=0: .*greater than or equal to 1"),
    ({"max_new_tokens": -5}, "greater than or equal to 1"),
    ({"max_new_tokens": 1.5}, "max_new_tokens"),
    ({"max_new_tokens": "5"}, "max_new_tokens"),
    ({"temperature": -0.1}, "temperature=-0.1"),
    ({"temperature": NAN}, "temperature=nan"),
    ({"temperature": INF}, "temperature=inf"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": None}, "temperature"),
    ({"stop": "###"}, r"stop=\['###'\]"),
    ({"stop": [""]}, "non-empty"),
    ({"stop": [5]}, "list of non-empty strings"),
    ({"seed": "lucky"}, "seed"),
    ({"seed": 2**70}, "seed=1180591620717411303424: .*less than"),
    ({"stop": 3}, "list of strings"),
    ({"logits_processor": max}, "list of logits processors"),
    ({"temperature": 1e-45}, "too small to sample with"),
    ({"prefill_chunk_size": 0}, "prefill_chunk_size"),
    ({"forced_eos_token_id": 9999}, "forced_eos_token_id"),
    ({"eos_token_id": "</s>"}, "could not begin the answer"),
    ({"namespace": 5}, "namespace"),
    ({"namespace": ""}, "names nobody"),
    ({"namespace": "half a \ud83d"}, "Unicode"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"top_q": 0.5, "min_q": 2}, "min_q, top_q"),
    ({"top_p": -1.0, "temperature": 1.0}, "top_p"),
    ({"repetition_penalty": -1.0}, "penalty"),
    ({"num_beams": 2}, "num_beams"),
    ({"num_return_sequences": 2, "temperature": 1.0}, "num_return_sequences"),
    ({"cache_implementation": "static"}, "cache_implementation"),
    ({"stop_strings": ["x"]}, "stop"),
    ({"remove_invalid_values": True}, "remove_invalid_values"),
]


@pytest.mark.parametrize(("settings", "message"), BAD_CALLS, ids=str)
def test_settings_of_a_call(engine: SemShareEngine, settings: dict[str, Any], message: str) -> None:
    settings = {"max_new_tokens": 4} | settings
    refused(ConfigError, message, lambda: engine.generate(TEXT, **settings))
    refused(ConfigError, message, lambda: list(engine.stream(TEXT, **settings)))


@pytest.mark.parametrize("reuse", ["sideways", 3, ["exact"]])
def test_levels_of_a_prefill(engine: SemShareEngine, reuse: Any) -> None:
    refused(ConfigError, "pass one of off, exact", lambda: engine.prefill(TEXT, reuse=reuse))


@pytest.mark.parametrize("prompts", [TEXT, "", MESSAGE, Chat([MESSAGE]), None, 5], ids=lambda value: repr(value)[:20])
def test_warm_takes_a_list(engine: SemShareEngine, prompts: Any) -> None:
    """A single message is no list of prompts that are called role and content."""
    refused(ConfigError, r"warm\(\[prompt\]\)", lambda: engine.warm(prompts))


def test_what_was_warmed_before_a_bad_prompt_stays() -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    refused(PromptError, "empty", lambda: engine.warm([TEXT, "", PARAGRAPHS[3]]))
    assert engine.pool.stats().entries == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: PoolConfig(max_bytes=-1), "max_bytes=-1"),
        (lambda: PoolConfig(max_bytes=NAN), "max_bytes"),
        (lambda: PoolConfig(min_tokens=0), "min_tokens=0"),
        (lambda: PoolConfig(max_megabytes=5), "max_megabytes"),
        (lambda: PoolConfig(path=""), "leave path out for a pool in memory"),
        (lambda: PoolConfig(path=" "), "names no folder"),
        (lambda: PoolConfig(path="a\0b"), "names no folder"),
        (lambda: PoolConfig(path="~nobody-of-that-name/pool"), "pass an absolute path"),
        (lambda: ReusePolicy(level="medium"), "level='medium'"),
        (lambda: ReusePolicy(recompute_ratio=1.2), "recompute_ratio=1.2"),
        (lambda: ReusePolicy(recompute_ratio=-0.1), "recompute_ratio"),
        (lambda: ReusePolicy(recompute_ratio=NAN), "recompute_ratio=nan"),
        (lambda: ReusePolicy(min_similarity=NAN), "min_similarity=nan"),
        (lambda: ReusePolicy(min_similarity=INF), "min_similarity=inf"),
        (lambda: ReusePolicy(min_run=1), "min_run=1"),
        (lambda: ReusePolicy(selection="best"), "selection='best'"),
        (lambda: ReusePolicy(schedule="rising"), "schedule"),
        (lambda: ReusePolicy.paper(recompute_ratio=INF), "recompute_ratio=inf"),
        (lambda: ReusePolicy.cacheblend(2), "recompute_ratio=2"),
        (lambda: Retention(first=0), "first=0"),
        (lambda: Retention(decay=NAN), "decay=nan"),
    ],
)
def test_settings_of_an_engine(make: Callable[[], Any], field: str) -> None:
    refused(ConfigError, field, make)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "folder"}, "PoolConfig"),
        ({"pool": {"max_bytes": 1}}, "PoolConfig"),
        ({"policy": "exakt"}, "policy='exakt'"),
        ({"policy": {"level": "exact"}}, "a ReusePolicy"),
    ],
    ids=str,
)
def test_an_engine_is_given_settings_of_another_kind(settings: dict[str, Any], message: str) -> None:
    refused(ConfigError, message, lambda: SemShareEngine(tiny_model("llama"), TOKENIZER, **settings))
    refused(ConfigError, message, lambda: SemShareEngine.from_pretrained("/no/such/model", **settings))


def test_a_folder_of_a_user_whom_nobody_knows() -> None:
    path = "~nobody-of-that-name/model"
    refused(ConfigError, "absolute path", lambda: SemShareEngine.from_pretrained(path))
    refused(ConfigError, "absolute path", lambda: SemShareLLM(model_id=path))
    refused(ConfigError, "absolute path", lambda: SemShareLLM(model_id="demo", tokenizer=path))


@pytest.mark.parametrize("model_id", [None, 3, TOKENIZER], ids=["none", "number", "object"])
def test_a_models_name_is_no_name(model_id: Any) -> None:
    refused(ConfigError, "give a hub id", lambda: SemShareEngine.from_pretrained(model_id))


def test_settings_of_loading_that_are_no_mapping() -> None:
    refused(ConfigError, "mapping", lambda: SemShareEngine.from_pretrained("demo", model_kwargs=["revision"]))


def test_settings_cannot_be_changed_behind_the_engines_back() -> None:
    policy = ReusePolicy()
    with pytest.raises(ValueError, match="frozen"):
        policy.recompute_ratio = 7  # type: ignore[misc]


def test_a_model_that_is_not_there() -> None:
    refused(ModelNotFoundError, "no model folder", lambda: SemShareEngine.from_pretrained("/no/such/model"))


def test_a_tokenizer_that_does_not_fit() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"])
    refused(TokenizerMismatchError, "2 of its tokens", lambda: SemShareEngine(tiny_model("llama"), tokenizer))


def test_positions_that_cannot_be_moved() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=2, initializer_range=0.2)).eval()
    refused(UnsupportedModelError, "positions cannot be moved", lambda: SemShareEngine(model, tiny_tokenizer()))


@pytest.mark.parametrize("vector", [[], [0.0, 0.0], [NAN, 1.0], [INF, 1.0]], ids=str)
def test_an_embedding_that_says_nothing(vector: list[float]) -> None:
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), embedding=lambda text: vector)
    refused(ConfigError, "embedding", lambda: engine.generate(TEXT, max_new_tokens=2))
    assert engine.pool.stats().entries == 0
    assert not engine._lock.locked()


def test_an_embedding_that_changes_its_length() -> None:
    """The index holds vectors of one length; another one is an error that says so, and keeps nothing."""
    lengths = iter([3, 5, 5, 3, 3])
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), embedding=lambda text: [1.0] * next(lengths))
    engine.warm([TEXT[:150]])
    refused(ConfigError, "embedding", lambda: engine.generate(PARAGRAPHS[3][:150], max_new_tokens=2))
    assert engine.pool.stats().entries == 1
