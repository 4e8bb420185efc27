"""SemShareLLM as LangChain's users call it: construction, settings, stop strings, statistics, sharing, caching."""

from __future__ import annotations

import copy
import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from typing import Any

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.errors import ConfigError, MissingDependencyError
from semshare_integrations.langchain import SemShareCallbackHandler, SemShareLLM
from tiny_models import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

NO_LETTERS = [token for token in range(259) if not ord("a") <= token <= ord("z")]
"""Suppressed, they leave an answer of small letters: one character per token, and a piece per token when streamed."""

PROMPT = "The river ran past the old mill and under the bridge, where two boys were fishing. What did they catch?"
OTHER = "Snow had fallen all night on the mountain road, and the bus to the village was late. Who was waiting for it?"


@pytest.fixture
def llm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> SemShareLLM:
    """A model with a pool of its own."""
    return SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=20)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, model: Any, tokenizer: Any) -> Iterator[list[dict[str, Any]]]:
    """What `from_pretrained` was called with, which gives the tiny model instead of loading one."""
    calls: list[dict[str, Any]] = []

    def from_pretrained(
        model_id: str,
        *,
        gguf_file: Any = None,
        tokenizer: Any = tokenizer,
        dtype: Any = None,
        device: Any = None,
        device_map: Any = None,
        pool: Any = None,
        policy: Any = None,
        embedding: Any = None,
    ) -> SemShareEngine:
        given = locals()
        calls.append({name: given[name] for name in given if name not in ("calls", "model", "given")})
        return SemShareEngine(model, tokenizer, pool=pool, policy=policy)

    monkeypatch.setattr(SemShareEngine, "from_pretrained", from_pretrained)
    return calls


def report_of(llm: SemShareLLM, prompt: str, **settings: Any) -> ReuseReport:
    info = llm.generate([prompt], **settings).generations[0][0].generation_info
    assert info is not None
    return ReuseReport.model_validate(info["semshare"])


# Construction


def test_construction_loads_nothing(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="demo", temperature=0.5)
    assert "demo" in repr(llm)
    assert llm.model_dump()["model_id"] == "demo"
    assert llm._identifying_params["model_id"] == "demo"
    copy.deepcopy(llm)
    assert loads == []


def test_many_threads_load_once(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="demo", max_new_tokens=2)
    at_once = threading.Barrier(4)

    def call(number: int) -> str:
        at_once.wait(30)
        return llm.invoke(f"prompt {number}")

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(call, range(4)))) == 4
    assert len(loads) == 1


def test_loading_settings_arrive(loads: list[dict[str, Any]]) -> None:
    def embedding(text: str) -> list[float]:
        return [1.0]

    pool = PoolConfig(max_bytes=1)
    llm = SemShareLLM.from_model_id(
        "some/model",
        gguf_file="q4.gguf",
        dtype=torch.bfloat16,
        device="cpu",
        pool=pool,
        reuse="exact",
        model_kwargs={"embedding": embedding},
    )
    assert llm.engine is llm.engine
    [call] = loads
    assert (call["model_id"], call["gguf_file"], call["dtype"]) == ("some/model", "q4.gguf", torch.bfloat16)
    assert (call["device"], call["device_map"]) == ("cpu", None)
    assert (call["pool"], call["policy"].level, call["embedding"]) == (pool, "exact", embedding)


def test_a_failed_load_is_tried_again(monkeypatch: pytest.MonkeyPatch, loads: list[dict[str, Any]]) -> None:
    working, attempts = SemShareEngine.from_pretrained, []

    def fails_once(model_id: str, **settings: Any) -> SemShareEngine:
        attempts.append(model_id)
        if len(attempts) == 1:
            raise OSError("disk is asleep")
        return working(model_id)

    monkeypatch.setattr(SemShareEngine, "from_pretrained", fails_once)
    llm = SemShareLLM(model_id="demo", max_new_tokens=1)
    with pytest.raises(OSError, match="asleep"):
        llm.invoke(PROMPT)
    llm.invoke(PROMPT)
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_tokenz": 3}, "max_tokenz"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_tokens": 5, "max_new_tokens": 6}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": "\n"}, "must be a list of strings"),
        ({"reuse": "turbo"}, "balanced"),
        ({"namespace": ""}, "namespace"),
        ({"model_kwargs": {"dtype": "float16"}}, "dtype"),
        ({"model_kwargs": {"zip": 1}}, "zip"),
        ({"model_id": ""}, "Which model"),
    ],
)
def test_bad_fields_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=named):
        SemShareLLM(**{"model_id": "demo", **settings})


def test_a_loaded_model_takes_no_loading_settings(model: Any, tokenizer: Any) -> None:
    engine = SemShareEngine(model, tokenizer)
    with pytest.raises(ConfigError, match="dtype"):
        SemShareLLM(engine=engine, dtype="float16")
    with pytest.raises(ConfigError, match="pool"):
        SemShareLLM(engine=engine, pool=PoolConfig())
    with pytest.raises(ConfigError, match="device"):
        SemShareLLM(model=model, tokenizer=tokenizer, device="cpu")
    with pytest.raises(ConfigError, match="tokenizer"):
        SemShareLLM(model=model)
    with pytest.raises(ConfigError, match="engine="):
        SemShareLLM(engine=engine, model=model, tokenizer=tokenizer)
    assert SemShareLLM(model=model, tokenizer=tokenizer, pool=PoolConfig(max_bytes=7)).engine.pool.config.max_bytes == 7


def test_max_tokens_is_max_new_tokens(model: Any, tokenizer: Any) -> None:
    assert SemShareLLM(model=model, tokenizer=tokenizer, max_tokens=3).max_new_tokens == 3


def test_one_engine_serves_several_objects(model: Any, tokenizer: Any) -> None:
    engine = SemShareEngine(model, tokenizer)
    first, second = SemShareLLM(engine=engine, max_new_tokens=4), SemShareLLM(engine=engine, max_new_tokens=4)
    assert first.engine is second.engine is engine
    assert report_of(first, PROMPT).outcome == "miss"
    assert report_of(second, PROMPT).outcome == "prefix"


def test_separate_objects_have_separate_pools(model: Any, tokenizer: Any) -> None:
    first = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=4)
    second = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=4)
    assert [report_of(each, PROMPT).outcome for each in (first, second, first)] == ["miss", "miss", "prefix"]


def test_objects_around_one_model_take_turns(tokenizer: Any) -> None:
    model = tiny_model("llama")
    parts = [f"{PROMPT} {number} {OTHER}\n" for number in range(4)]
    prompts = [parts[a] + parts[b] + parts[c] + "\n\nWhy?" for a, b, c in ((0, 1, 2), (2, 0, 1), (3, 2, 0), (1, 3, 2))]

    def answers(_: int = 0) -> list[str]:
        fresh = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=6, reuse="fast")
        return [fresh.invoke(prompt) for prompt in prompts]

    alone = answers()
    with ThreadPoolExecutor(3) as threads:
        assert all(together == alone for together in threads.map(answers, range(12)))


def test_configurable_fields_keep_the_engine(llm: SemShareLLM, loads: list[dict[str, Any]]) -> None:
    field = {"max_new_tokens": ConfigurableField(id="length")}
    long = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    bound = llm.configurable_fields(**field).bind(suppress_tokens=NO_LETTERS)
    assert bound.with_config(configurable={"length": 3}).invoke(PROMPT) == long[:3]
    assert llm.engine.pool.stats().entries == 1

    lazy = SemShareLLM(model_id="demo").configurable_fields(**field)
    for length in (1, 2, 3):
        lazy.with_config(configurable={"length": length}).invoke(PROMPT)
    assert len(loads) == 1


def test_another_configured_model_is_loaded(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="a", max_new_tokens=1)
    either = llm.configurable_fields(model_id=ConfigurableField(id="model"))
    either.invoke(PROMPT)
    either.with_config(configurable={"model": "b"}).invoke(PROMPT)
    assert [call["model_id"] for call in loads] == ["a", "b"]


# Answers


def test_invoke_is_what_transformers_generates(llm: SemShareLLM, model: Any, tokenizer: Any) -> None:
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    expected = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    for _ in range(2):  # computed, and reused
        assert llm.invoke(PROMPT, reuse="exact") == tokenizer.decode(expected, skip_special_tokens=True)


def test_in_a_chain(llm: SemShareLLM) -> None:
    chain = PromptTemplate.from_template("{who} asked: " + PROMPT) | llm | StrOutputParser()
    asked = [{"who": "Ann"}, {"who": "Bob"}]
    direct = [llm.invoke(f"{each['who']} asked: {PROMPT}", reuse="off") for each in asked]
    assert [chain.invoke(each) for each in asked] == direct
    assert chain.batch(asked) == direct
    assert "".join(chain.stream(asked[0])) == direct[0]


def test_batch_has_statistics_per_prompt(llm: SemShareLLM) -> None:
    prompts = [PROMPT, OTHER, PROMPT + " And then?"]
    result = llm.generate(prompts, max_new_tokens=5, reuse="exact")
    infos = [generation[0].generation_info or {} for generation in result.generations]
    reports = [ReuseReport.model_validate(info["semshare"]) for info in infos]
    assert [report.prompt_tokens for report in reports] == [len(prompt) for prompt in prompts]
    assert [report.outcome for report in reports] == ["miss", "miss", "prefix"]
    assert reports[2].prefix_tokens == len(PROMPT)
    assert [info["finish_reason"] for info in infos] == ["length"] * 3
    assert [generation[0].text for generation in result.generations] == llm.batch(
        prompts, max_new_tokens=5, reuse="off"
    )
    total = sum(map(len, prompts))
    usage = {"prompt_tokens": total, "completion_tokens": 15, "total_tokens": total + 15}
    assert result.llm_output == {"token_usage": usage, "model_name": llm.model_id}


def test_stream_is_invoke_in_pieces(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    pieces = list(llm.stream(PROMPT, suppress_tokens=NO_LETTERS))
    assert "".join(pieces) == whole
    assert sum(map(bool, pieces)) == len(whole) == 20


def test_streamed_chunks_merge(llm: SemShareLLM) -> None:
    chunks = list(llm._stream(PROMPT, suppress_tokens=NO_LETTERS))
    assert [chunk.generation_info for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    merged = reduce(add, chunks)
    assert merged.text == llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    assert merged.generation_info == chunks[-1].generation_info
    report = ReuseReport.model_validate((merged.generation_info or {})["semshare"])
    assert (report.prompt_tokens, report.generated_tokens) == (len(PROMPT), 20)
    assert (merged.generation_info or {})["finish_reason"] == "length"


def test_an_empty_answer_is_streamed_as_one_chunk(llm: SemShareLLM) -> None:
    first = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)[0]
    assert list(llm.stream(PROMPT, suppress_tokens=NO_LETTERS, stop=[first])) == [""]


def test_tokens_are_told_as_they_come(llm: SemShareLLM) -> None:
    class Told(SemShareCallbackHandler):
        def __init__(self) -> None:
            super().__init__()
            self.tokens: list[tuple[str, str]] = []

        def on_llm_new_token(self, token: Any, *, chunk: Any = None, **kwargs: Any) -> None:
            self.tokens.append((token, chunk.text))

    told = Told()
    pieces = list(llm.stream(PROMPT, config={"callbacks": [told]}, suppress_tokens=NO_LETTERS))
    assert told.tokens == [(piece, piece) for piece in pieces]
    assert len(pieces) > 10


def test_closing_a_stream_ends_generation(llm: SemShareLLM, model: Any) -> None:
    passes: list[int] = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        pieces = llm.stream(PROMPT, max_new_tokens=3000, suppress_tokens=NO_LETTERS)
        next(pieces)
        pieces.close()
        before = len(passes)
        llm.invoke(OTHER, max_new_tokens=1, reuse="off")
    finally:
        handle.remove()
    assert before < 1000  # of 3000: close() came back with the generation ended ...
    assert len(passes) - before <= 2  # ... and nothing of it goes on


# Stop strings


@pytest.mark.parametrize("how", ["field", "call", "bind"])
@pytest.mark.parametrize("streamed", [False, True])
def test_stop_strings_end_the_answer(llm: SemShareLLM, how: str, streamed: bool) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    stop = ["not in it", whole[6:9], whole[12:]]
    runnable: Any = llm.bind(suppress_tokens=NO_LETTERS)
    call: dict[str, Any] = {}
    if how == "field":
        runnable = SemShareLLM(engine=llm.engine, max_new_tokens=20, stop=stop).bind(suppress_tokens=NO_LETTERS)
    elif how == "bind":
        runnable = runnable.bind(stop=stop)
    else:
        call = {"stop": stop}
    text = "".join(runnable.stream(PROMPT, **call)) if streamed else runnable.invoke(PROMPT, **call)
    assert text == whole[: whole.index(whole[6:9])]


def test_a_stop_of_the_call_goes_before_the_field(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    stopping = SemShareLLM(engine=llm.engine, max_new_tokens=20, stop=[whole[4]])
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS) == whole[: whole.index(whole[4])]
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS, stop=[]) == whole
    assert stopping.invoke(PROMPT, suppress_tokens=NO_LETTERS, stop=["?"]) == whole


def test_the_finish_reason_tells_of_a_stop(llm: SemShareLLM) -> None:
    whole = llm.invoke(PROMPT, suppress_tokens=NO_LETTERS)
    result = llm.generate([PROMPT], stop=[whole[5]], suppress_tokens=NO_LETTERS)
    assert (result.generations[0][0].generation_info or {})["finish_reason"] == "stop"


def test_a_string_is_no_list_of_stop_strings(llm: SemShareLLM) -> None:
    for call in (llm.invoke, lambda prompt, **more: list(llm.stream(prompt, **more))):
        with pytest.raises(ConfigError, match=r"stop=\['END'\]"):
            call(PROMPT, stop="END")  # type: ignore[arg-type]


# Settings of a call


def test_length_of_the_call(llm: SemShareLLM) -> None:
    for name in ("max_new_tokens", "max_tokens"):
        assert report_of(llm, PROMPT, **{name: 7}).generated_tokens == 7
    assert report_of(llm, PROMPT, max_new_tokens=None).generated_tokens == 20


def test_temperature_and_seed_of_the_call(llm: SemShareLLM) -> None:
    greedy = llm.invoke(PROMPT)
    sampled = [llm.invoke(PROMPT, temperature=1.5, seed=seed) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert greedy not in sampled


def test_zero_is_a_value(llm: SemShareLLM) -> None:
    hot = SemShareLLM(engine=llm.engine, max_new_tokens=20, temperature=1.5, top_p=0.9, seed=3)
    assert hot.invoke(PROMPT, temperature=0.0) == llm.invoke(PROMPT) != hot.invoke(PROMPT)
    assert hot.invoke(PROMPT, seed=0) == hot.invoke(PROMPT, seed=0) != hot.invoke(PROMPT)


def test_top_p_of_object_and_call(llm: SemShareLLM) -> None:
    greedy = llm.invoke(PROMPT)
    narrow = SemShareLLM(engine=llm.engine, max_new_tokens=20, temperature=1.5, top_p=1e-6, seed=1)
    assert narrow.invoke(PROMPT) == greedy
    assert narrow.invoke(PROMPT, top_p=1.0) != greedy
    assert "top_p" not in narrow.call_settings(None, {"temperature": 0})  # transformers would warn of it


def test_reuse_of_object_and_call(llm: SemShareLLM) -> None:
    llm.invoke(PROMPT)
    report = report_of(llm, PROMPT, reuse="off")
    assert (report.outcome, report.level, report.prefix_tokens) == ("bypass", "off", 0)
    assert report_of(llm, PROMPT).level == "balanced"
    assert report_of(llm, PROMPT, reuse=ReusePolicy(recompute_ratio=0.5)).level == "custom"
    exact = SemShareLLM(engine=llm.engine, reuse="exact", max_new_tokens=4)
    assert (report_of(exact, PROMPT).level, report_of(exact, PROMPT, reuse="high").level) == ("exact", "high")


def test_store_of_the_call(llm: SemShareLLM) -> None:
    assert report_of(llm, PROMPT, store=False).outcome == "miss"
    assert report_of(llm, PROMPT).outcome == "miss"
    assert report_of(llm, PROMPT).outcome == "prefix"


def test_unknown_settings_are_named(llm: SemShareLLM) -> None:
    with pytest.raises(ConfigError, match="max_tokenz"):
        llm.invoke(PROMPT, max_tokenz=3)
    with pytest.raises(ConfigError, match="max_tokenz"):
        list(llm.stream(PROMPT, max_tokenz=3))
    with pytest.raises(ConfigError, match="same setting"):
        llm.invoke(PROMPT, max_tokens=3, max_new_tokens=3)
    with pytest.raises(ConfigError, match="namespace"):
        llm.invoke(PROMPT, namespace="")
    with pytest.raises(ConfigError, match="reuse='turbo'"):
        llm.invoke(PROMPT, reuse="turbo")


# Reuse as LangChain's users see it


def test_the_second_turn_reuses_the_first(llm: SemShareLLM) -> None:
    first = PROMPT + "\nAnswer:"
    answer = llm.invoke(first, suppress_tokens=NO_LETTERS)
    second = f"{first}{answer}\nAnd who ate it?\nAnswer:"
    report = report_of(llm, second)
    assert report.outcome == "prefix"
    assert report.prefix_tokens >= len(first) + len(answer) - 1  # the last generated token has no row yet
    assert report.prefix_tokens + report.new_tokens == report.prompt_tokens == len(second)


def test_namespaces_of_calls_are_apart(llm: SemShareLLM) -> None:
    assert report_of(llm, PROMPT, namespace="alice").outcome == "miss"
    assert report_of(llm, PROMPT, namespace="bob").outcome == "miss"
    assert report_of(llm, PROMPT).outcome == "miss"
    assert [report_of(llm, PROMPT, namespace=who).outcome for who in ("alice", "bob", None)] == ["prefix"] * 3


def test_namespaces_of_objects_are_apart(llm: SemShareLLM) -> None:
    alice, bob, alice_again = (
        SemShareLLM(engine=llm.engine, namespace=who, max_new_tokens=2) for who in ("alice", "bob", "alice")
    )
    outcomes = [report_of(each, PROMPT).outcome for each in (alice, bob, alice_again)]
    assert outcomes == ["miss", "miss", "prefix"]
    [served_by] = report_of(alice, PROMPT).reference_ids
    assert served_by not in report_of(bob, PROMPT).reference_ids


def test_token_counts_are_the_models_own(llm: SemShareLLM) -> None:
    text = "Größe: 12 €"
    assert llm.get_token_ids(text) == list(text.encode())
    assert llm.get_num_tokens(text) == report_of(llm, text).prompt_tokens
    assert llm.get_num_tokens("") == 0
    counting = SemShareLLM(engine=llm.engine, custom_get_token_ids=lambda text: [7])
    assert counting.get_token_ids(text) == [7]


# LangChain's bookkeeping


def test_the_object_is_identified_by_what_its_answers_depend_on(llm: SemShareLLM) -> None:
    base = {"engine": llm.engine, "model_id": "m"}
    same = [
        SemShareLLM(**base, reuse=reuse)._identifying_params
        for reuse in (None, "balanced", ReusePolicy(level="balanced"))
    ]
    assert same[0] == same[1] == same[2]
    changes: list[dict[str, Any]] = [
        {"model_id": "n"},
        {"max_new_tokens": 5},
        {"temperature": 0.5},
        {"temperature": 0.5, "top_p": 0.5},
        {"seed": 0},
        {"stop": ["x"]},
        {"reuse": "fast"},
        {"reuse": ReusePolicy(level="balanced", min_similarity=0.0)},
        {"namespace": "alice"},
    ]
    told = [str(sorted(SemShareLLM(**{**base, **change})._identifying_params.items())) for change in changes]
    assert len({str(sorted(same[0].items())), *told}) == len(changes) + 1
    assert SemShareLLM(model_id="m", dtype=torch.float16)._identifying_params["dtype"] == "float16"
    assert llm._identifying_params["dtype"] == "float32"


def test_identity_does_not_depend_on_being_loaded(loads: list[dict[str, Any]]) -> None:
    llm = SemShareLLM(model_id="demo", max_new_tokens=1)
    before = dict(llm._identifying_params)
    llm.invoke(PROMPT)
    assert len(loads) == 1
    assert llm._identifying_params == before


def test_two_nameless_models_are_told_apart(tokenizer: Any) -> None:
    first, second = (SemShareLLM(model=tiny_model("llama", seed), tokenizer=tokenizer) for seed in (0, 1))
    assert first.model_id != second.model_id


def test_the_response_cache_is_keyed_by_object_and_call(llm: SemShareLLM) -> None:
    cached = {"engine": llm.engine, "cache": InMemoryCache(), "max_new_tokens": 20, "temperature": 1.5, "seed": 1}
    calls = SemShareCallbackHandler()

    def ask(call: dict[str, Any] | None = None, **fields: Any) -> str:
        settings = {"suppress_tokens": NO_LETTERS, **(call or {})}
        return SemShareLLM(**{**cached, **fields}).invoke(PROMPT, config={"callbacks": [calls]}, **settings)

    first = ask()
    assert ask() == first
    assert len(calls.reports) == 1  # the second came from the cache
    others: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"temperature": 0.7}, {}),
        ({"seed": 2}, {}),
        ({"namespace": "bob"}, {}),
        ({"stop": [first[3]]}, {}),
        ({}, {"stop": [first[5]]}),
        ({}, {"seed": 3}),
        ({}, {"namespace": "carol"}),
        ({}, {"reuse": "off"}),
    ]
    for number, (call, fields) in enumerate(others, start=2):
        answer = ask(call, **fields)
        assert len(calls.reports) == number, (call, fields)
        assert ask(call, **fields) == answer
        assert len(calls.reports) == number, (call, fields)
    assert ask({"seed": 3}) == ask(seed=3)  # said either way it is the same question
    assert len(calls.reports) == len(others) + 1


def test_traces_name_the_model(llm: SemShareLLM) -> None:
    named = SemShareLLM(engine=llm.engine, model_id="m", temperature=0.5, stop=["x"])
    assert named._get_ls_params() == {
        "ls_provider": "semshare",
        "ls_model_name": "m",
        "ls_model_type": "llm",
        "ls_temperature": 0.5,
        "ls_max_tokens": 128,
        "ls_stop": ["x"],
    }
    of_a_call = named._get_ls_params(stop=["y"], temperature=0.0, max_tokens=3)
    assert (of_a_call["ls_stop"], of_a_call["ls_temperature"], of_a_call["ls_max_tokens"]) == (["y"], 0.0, 3)


def test_no_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core", None)
    monkeypatch.delitem(sys.modules, "semshare_integrations.langchain")
    with pytest.raises(MissingDependencyError, match=r"pip install 'semshare\[cpu,langchain\]'"):
        importlib.import_module("semshare_integrations.langchain")


# The real model


def test_the_demo_model_by_its_name(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = demo
    prompt = "The capital of France is"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    by_name = SemShareLLM(model_id="demo", device="cpu", dtype="float32", max_new_tokens=12)
    answer = by_name.invoke(prompt)
    assert answer == tokenizer.decode(expected, skip_special_tokens=True)
    assert "Paris" in answer
    assert by_name.get_num_tokens(prompt) == ids.shape[1]


def test_a_conversation_with_the_demo_model(demo: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = demo
    llm = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=24, reuse="exact", stop=["\nUser:", "\n\n"])
    prompt = (
        "A conversation about the harbour of Elsinore, its ferries, its castle, and the price of a ticket, which is "
        "four crowns for grown-ups and two for children.\n\nUser: What does a ticket for a child cost?\nAssistant:"
    )
    answer = "".join(llm.stream(prompt))
    assert answer.strip()
    assert "\nUser:" not in answer
    follow_up = f"{prompt}{answer}\nUser: And for a grown-up?\nAssistant:"
    alone = SemShareLLM(model=model, tokenizer=tokenizer, max_new_tokens=24, reuse="off", stop=llm.stop)
    result = llm.generate([follow_up])
    report = ReuseReport.model_validate((result.generations[0][0].generation_info or {})["semshare"])
    assert report.outcome == "prefix"
    assert report.prefix_tokens >= llm.get_num_tokens(prompt)
    assert result.generations[0][0].text == alone.invoke(follow_up)
