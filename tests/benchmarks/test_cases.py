"""Workloads as cases: what each promises about its pairs, on made-up texts and with words for tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from benchmarks.case import Case, answers
from benchmarks.corpora import Row, hotpotqa, write_rows
from benchmarks.corpora.factbook import Editions, Profile
from benchmarks.corpora.factbook_facts import FactQuestion, fact_questions
from benchmarks.workloads.agent_replay import History, agent_replay
from benchmarks.workloads.codes import code_cases, code_lookups
from benchmarks.workloads.editions import FACT_FIELDS, editions, without_long_fields
from benchmarks.workloads.hotpot_orders import Pairing, hotpot_orders
from benchmarks.workloads.length_sweep import length_sweep
from benchmarks.workloads.multi_turn import Message
from benchmarks.workloads.own_rows import own_rows, row_cases
from benchmarks.workloads.paraphrase import paraphrase_cases, paraphrases
from benchmarks.workloads.passages import word_count
from benchmarks.workloads.rag_chunks import rag_chunk_cases, rag_chunks
from benchmarks.workloads.shared_context import CONTEXT_FIRST, QUESTION_FIRST, shared_context
from benchmarks.workloads.shuffled_edits import shuffled_edits
from benchmarks.workloads.similarity_sweep import sentences_of, similarity_sweep
from benchmarks.workloads.unrelated import unrelated, unrelated_cases
from hotpot_sample import hotpot_file

SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "ti", "vo")


def _texts(count: int, lines: int = 30) -> list[str]:
    rng = random.Random(f"cases {count} {lines}")

    def word() -> str:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 5)))

    return [
        "\n".join(" ".join(word() for _ in range(rng.randint(8, 20))).capitalize() + "." for _ in range(lines))
        for _ in range(count)
    ]


TEXTS = _texts(40)
HOTPOT = hotpotqa.read_questions(hotpot_file(12))


def _country(number: int) -> Editions:
    """All facts in both editions, some of them changed; long fields that one or both have."""

    def profile(edition: str) -> Profile:
        return Profile(
            f"Land{number}",
            {
                "Introduction: Background": "long " * 60 + edition,
                **dict.fromkeys(FACT_FIELDS, f"about {number + 10}"),
                "Government: Capital: name": f"City {edition}",
                "Government: Executive branch: chief of state": f"Queen {edition.upper()}MAN {'ABCDEF'[number] * 3}",
                "Geography: Climate": "mild " * 20,
                f"Geography: Only {edition}": "odd " * 40,
            },
        )

    return Editions(f"c{number}", profile("old"), profile("new"))


COUNTRIES = [_country(number) for number in range(6)]
FACT_QUESTIONS = fact_questions(COUNTRIES)


def _text(prompt: object) -> str:
    assert isinstance(prompt, str)
    return prompt


def _messages(case: Case) -> list[tuple[Message, ...]]:
    """The chat prompts of a case, in the order in which they come."""
    prompts = [*case.references, case.target]
    assert all(isinstance(prompt, tuple) for prompt in prompts)
    return cast("list[tuple[Message, ...]]", prompts)


def _sound(cases: Sequence[Case]) -> None:
    """What holds of every case of every workload."""
    assert len({case.id for case in cases}) == len(cases)
    assert len({case.workload for case in cases}) == 1
    for case in cases:
        if isinstance(case.target, str):
            references = " ".join(_text(reference) for reference in case.references)
            assert all(answers(case.target, [gold]) for gold in case.gold)
            assert not answers(case.target, case.old)
            assert all(answers(references, [old]) for old in case.old)


# HotpotQA


@pytest.mark.parametrize("pairing", ["shared paragraphs", "same question", "other question"])
def test_hotpot_cases_ask_for_what_stands_in_another_place(pairing: Pairing) -> None:
    cases = hotpot_orders(HOTPOT, word_count, count=5, tokens=(50, 120), pairing=pairing)
    _sound(cases)
    assert cases == hotpot_orders(HOTPOT, word_count, count=5, tokens=(50, 120), pairing=pairing)
    assert cases != hotpot_orders(HOTPOT, word_count, count=5, tokens=(50, 120), pairing=pairing, seed=1)
    for case in cases:
        reference, target = (_text(prompt).split("\n\n") for prompt in (*case.references, case.target))
        assert case.gold
        assert case.setting == pairing
        assert (reference[-1] == target[-1]) is (pairing == "same question")
        shared = set(reference[:-1]) & set(target[:-1])
        assert len(shared) == (4 if pairing == "shared paragraphs" else 10)
        assert [part for part in reference if part in shared] != [part for part in target if part in shared]


def test_hotpot_prompts_of_another_length_are_left_out() -> None:
    with pytest.raises(ValueError, match="only 0 pairs"):
        hotpot_orders(HOTPOT, word_count, count=1)


# editions


def test_edition_cases_tell_a_stale_answer() -> None:
    cases = editions(FACT_QUESTIONS, word_count, count=8, tokens=(40, 130))
    _sound(cases)
    assert cases == editions(FACT_QUESTIONS, word_count, count=8, tokens=(40, 130))
    assert cases != editions(FACT_QUESTIONS, word_count, count=8, tokens=(40, 130), seed=1)
    assert all(case.gold and case.old for case in cases)
    assert len({_text(case.target).split("\n")[0] for case in cases[:6]}) == 6  # every country once, then again
    for case in cases:
        assert 40 <= word_count(_text(case.target)) <= 130
        assert _text(case.target).split("Question:")[1] == _text(case.references[0]).split("Question:")[1]
    unchanged = editions(FACT_QUESTIONS, word_count, count=36, tokens=(40, 130), changed=False)
    assert any(not case.old for case in unchanged)
    with pytest.raises(ValueError, match="are needed"):
        editions(FACT_QUESTIONS, word_count, count=1, tokens=(4000, 5000))


@pytest.mark.parametrize("tokens", [300, 120, 80])
def test_both_editions_lose_the_same_fields_and_no_fact(tokens: int) -> None:
    old, new = without_long_fields(COUNTRIES[0], tokens, word_count)
    assert max(word_count(old), word_count(new)) <= tokens
    for text, profile in ((old, COUNTRIES[0].old), (new, COUNTRIES[0].new)):
        assert all(profile.fields[label] in text for label in FACT_FIELDS)
    assert ("mild" in old) is ("mild" in new)
    assert ("long" in new) is (tokens == 300)


def test_facts_stay_where_nothing_else_can_go() -> None:
    _, new = without_long_fields(COUNTRIES[0], 1, word_count)
    assert all(COUNTRIES[0].new.fields[label] in new for label in FACT_FIELDS)
    assert "mild" not in new


# agents


def _replay(history: History, **sizes: int) -> list[Case]:
    return agent_replay(TEXTS, word_count, history=history, count=3, tool_tokens=(40, 70), **sizes)


def test_a_growing_history_only_grows() -> None:
    cases = _replay("growing", turns=4)
    _sound(cases)
    assert cases == _replay("growing", turns=4)
    for case in cases:
        assert case.setting == "growing"
        prompts = _messages(case)
        assert [len(prompt) for prompt in prompts] == [2, 4, 6, 8]
        for earlier, later in pairwise(prompts):
            assert later[: len(earlier)] == earlier


def test_a_window_drops_the_oldest_turn_and_keeps_the_system_message() -> None:
    for case in _replay("window", turns=6, window=2):
        prompts = _messages(case)
        assert [len(prompt) for prompt in prompts] == [2, 4, 6, 6, 6, 6]
        for earlier, later in pairwise(prompts[2:]):
            assert later[0] == earlier[0]
            assert later[1:5] == (*earlier[3:5], earlier[5], later[4])
            assert earlier[1] not in later
        results = [message["content"] for message in prompts[-1] if message["role"] == "user"]
        assert len(set(results)) == 3


def test_a_window_that_drops_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing falls out"):
        _replay("window", turns=5, window=4)
    with pytest.raises(ValueError, match="are needed"):
        _replay("growing", turns=41)


# sweeps


def test_shares_of_the_sentences_are_what_the_setting_says() -> None:
    cases = similarity_sweep(TEXTS, word_count, count=2, tokens=200, tail=" TAIL")
    _sound(cases)
    assert cases == similarity_sweep(TEXTS, word_count, count=2, tokens=200, tail=" TAIL")
    assert len(cases) == 2 * 2 * 9
    for case in cases:
        share, edit = case.setting.split()
        before, after = (
            sentences_of(_text(prompt).removesuffix(" TAIL")) for prompt in (*case.references, case.target)
        )
        kept = [sentence for sentence in before if sentence in set(after)]
        assert len(kept) == len(before) - round(float(share) * len(before))
        assert [sentence for sentence in after if sentence in set(before)] == kept
        assert len(after) == (len(before) if edit == "replaced" else len(kept))
        assert 200 <= word_count(" ".join(before)) < 220
    with pytest.raises(ValueError, match="are needed"):
        similarity_sweep(TEXTS, word_count, tokens=10_000)


def test_a_sweep_that_ends_early_has_seen_both_edits_and_both_ends() -> None:
    settings = [case.setting.split() for case in similarity_sweep(TEXTS, word_count, count=1, tokens=200)]
    assert [edit for _, edit in settings] == ["removed", "replaced"] * 9
    begun = {float(share) for share, _ in settings[:6]}
    assert min(begun) == 0.1
    assert max(begun) == 0.9


def test_a_larger_share_edits_what_a_smaller_one_does_and_more() -> None:
    cases = similarity_sweep(TEXTS, word_count, count=1, tokens=200, edits=["removed"])
    cases.sort(key=lambda case: float(case.setting.split()[0]))
    targets = [set(sentences_of(_text(case.target))) for case in cases]
    assert all(later < earlier for earlier, later in pairwise(targets))


def test_the_length_sweep_has_the_lengths_that_it_names() -> None:
    cases = length_sweep(TEXTS, word_count, lengths=(200, 500, 1000), count=2, passage_tokens=(40, 60))
    _sound(cases)
    assert [case.setting for case in cases] == ["200", "200", "500", "500", "1000", "1000"]
    for case in cases:
        assert abs(word_count(_text(case.target)) - int(case.setting)) < 60
        assert case.target != case.references[0]
    assert cases[0].target != length_sweep(TEXTS, word_count, lengths=(200,), passage_tokens=(40, 60), seed=1)[0].target


def test_a_few_passages_never_stay_in_order() -> None:
    for pair in shuffled_edits(TEXTS, word_count, seeds=range(30), tokens=120, passage_tokens=(40, 60)):
        assert sorted(pair.order) == list(range(len(pair.order))) != list(pair.order)


# one context, many questions


def test_questions_share_their_context_and_half_of_them_come_before_it() -> None:
    cases = shared_context(FACT_QUESTIONS, word_count, count=4, tokens=600, countries=2, earlier=2)
    _sound(cases)
    assert cases == shared_context(FACT_QUESTIONS, word_count, count=4, tokens=600, countries=2, earlier=2)
    assert [case.setting for case in cases] == [CONTEXT_FIRST, QUESTION_FIRST] * 2
    for case in cases:
        prompts = [_text(prompt) for prompt in (*case.references, case.target)]
        assert len(set(prompts)) == 3
        contexts = {
            prompt.rsplit("\n\n", 1)[0]
            if case.setting == CONTEXT_FIRST
            else prompt.split("\n\n", 1)[1].rsplit("\n\n")[0]
            for prompt in prompts
        }
        assert len(contexts) == 1
        assert all(prompt.startswith("Answer") is (case.setting == QUESTION_FIRST) for prompt in prompts)
        assert case.gold


def test_too_few_countries_or_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="countries"):
        shared_context(FACT_QUESTIONS, word_count, countries=7)
    few: list[FactQuestion] = [next(each for each in FACT_QUESTIONS if each.country is c) for c in COUNTRIES]
    with pytest.raises(ValueError, match="questions"):
        shared_context(few, word_count, countries=2, earlier=2)


# own prompts, and the workloads that are pairs of their own


def test_own_rows_become_cases(tmp_path: Path) -> None:
    rows = [
        Row(id="1", reference="It is old.", target="It is new.", question="How is it?", gold="new", old="old"),
        Row(id="2", reference="As it is.", target="As it was."),
    ]
    write_rows(tmp_path / "mine.jsonl", rows)
    asked, plain = own_rows(tmp_path / "mine.jsonl")
    _sound([asked, plain])
    assert (asked.workload, asked.gold, asked.old) == ("mine", ("new",), ("old",))
    assert _text(asked.target).startswith("It is new.\n\n")
    assert _text(asked.target).endswith("Question: How is it?\nAnswer:")
    assert plain == Case("2", "mine", ("As it is.",), "As it was.")
    assert row_cases([], "none") == []


def test_pairs_become_cases() -> None:
    lookups = code_lookups(TEXTS, word_count, count=3)
    chunks = rag_chunks(TEXTS, word_count, seeds=[0], chunks=3, chunk_tokens=(40, 60), others=(1, 2), bystanders=1)
    misses = [unrelated(TEXTS[:10], ["Quite other words than those of the pool."] * 9, word_count, tokens=40)]
    written = paraphrases([Row(id="a", reference="old words", target="new words")])
    _sound(code_cases(lookups))
    assert [(case.gold, case.old) for case in code_cases(lookups)] == [((c.gold,), (c.old,)) for c in lookups]
    (many,) = rag_chunk_cases(chunks)
    assert (many.references, many.target) == (chunks[0].earlier_prompts, chunks[0].target_prompt)
    (miss,) = unrelated_cases(misses)
    assert (miss.references, miss.target) == (misses[0].pool_prompts, misses[0].prompt)
    (paraphrase,) = paraphrase_cases(written)
    assert (paraphrase.references, paraphrase.target) == ((written[0].reference_prompt,), written[0].target_prompt)
