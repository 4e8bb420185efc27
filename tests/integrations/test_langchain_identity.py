"""How LangChain tells models and calls apart: identity, response cache, traces."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from langchain_core.caches import InMemoryCache

from langchain_prompts import NO_LETTERS, PROMPT
from semshare_core import ReusePolicy
from semshare_core.errors import MissingDependencyError
from semshare_integrations.langchain import SemShareCallbackHandler, SemShareLLM
from tiny_models import tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


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
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[cpu,langchain\]'"):
        importlib.import_module("semshare_integrations.langchain")
