"""Settings of a call, and reuse as LangChain users see it."""

from __future__ import annotations

import pytest

from langchain_prompts import NO_LETTERS, PROMPT, report_of
from semshare_core import ReusePolicy
from semshare_core.errors import ConfigError
from semshare_integrations.langchain import SemShareLLM

pytestmark = pytest.mark.usefixtures("one_thread")


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
