"""Facts that differ from the rows that serve them are computed, whatever the budget says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from semshare_core.budget.needs import Needs
from semshare_core.config import ReusePolicy
from semshare_core.match.facts import FactTokens
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import selection_for

WORDS = ["the", "\u0120of", "\u0120Paris", "\u0120London", "\u0120in", "1", "9", "7", "\u0120near", "\u2581Bern", "x2"]


class Vocabulary:
    """All of a tokenizer that is asked for."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def decode(self, tokens: list[int]) -> str:
        return "".join(self.words[token].replace("\u0120", " ").replace("\u010a", "\n") for token in tokens)


@dataclass(frozen=True)
class Reference:
    id: str
    tokens: np.ndarray


def ids(*words: str) -> np.ndarray:
    return np.array([WORDS.index(word) for word in words])


def stale(old: np.ndarray, new: np.ndarray, halo: int = 0, fuzzy: slice | list[int] = slice(None)) -> list[int]:
    n = len(new)
    source = np.full(n, Source.MOVED, np.int8)
    source[fuzzy] = Source.FUZZY
    plan = ReusePlan(source, np.zeros(n, np.int64), np.arange(n), ("a",))
    facts = FactTokens(Vocabulary(WORDS), len(WORDS))  # type: ignore[arg-type]
    return np.flatnonzero(facts.changed(plan, new, [Reference("a", old)], halo)).tolist()


def test_other_names_and_numbers_are_facts_other_words_are_none() -> None:
    old = ids("the", "\u0120Paris", "\u0120of", "\u0120in", "x2")
    assert stale(old, ids("the", "\u0120London", "\u0120near", "\u0120in", "x2"), fuzzy=[0, 1, 2, 3]) == [1]
    assert stale(old, ids("the", "\u0120Paris", "\u0120near", "\u0120in", "1")) == [4]


def test_a_fact_that_is_told_no_more_counts_and_one_told_newly() -> None:
    assert stale(ids("\u0120Paris"), ids("\u0120near")) == [0]
    assert stale(ids("\u0120near"), ids("\u2581Bern")) == [0]


def test_what_identical_runs_serve_is_no_other_fact() -> None:
    same = ids("the", "1", "9")
    assert stale(same, ids("the", "1", "7"), halo=2, fuzzy=[]) == []


def test_the_rest_of_a_number_follows_its_changed_digit() -> None:
    old, new = ids("the", "1", "9", "7", "7", "\u0120of", "1"), ids("the", "1", "7", "7", "7", "\u0120of", "1")
    assert stale(old, new, fuzzy=[2]) == [2, 3, 4]


def test_the_rest_of_a_number_follows_a_digit_that_nothing_serves() -> None:
    """It is found as an identical run, and was read as the end of another number."""
    new = ids("the", "1", "9", "7", "7", "\u0120of", "\u0120near")
    source = np.array([Source.MOVED, Source.NEW, Source.NEW, *[Source.MOVED] * 4], np.int8)
    position = np.array([0, -1, -1, 30, 31, 32, 33])
    plan = ReusePlan(source, np.where(position < 0, -1, 0), position, ("a",))
    facts = FactTokens(Vocabulary(WORDS), len(WORDS))  # type: ignore[arg-type]
    reference = Reference("a", np.zeros(40, np.int64))
    assert np.flatnonzero(facts.changed(plan, new, [reference], 0)).tolist() == [3, 4]
    assert np.flatnonzero(facts.changed(plan, new, [reference], 1)).tolist() == [3, 4, 5]


def test_digits_that_were_matched_one_by_one_are_of_another_number_even_where_they_agree() -> None:
    old, new = ids("the", "1", "9", "7", "\u0120of"), ids("the", "1", "7", "7", "\u0120of")
    assert stale(old, new, fuzzy=[1, 2, 3]) == [1, 2, 3]
    assert stale(old, old, fuzzy=[1, 2, 3]) == [1, 2, 3]
    assert stale(old, new, fuzzy=[2, 3]) == [2, 3], "what an identical run serves has read what it reads now"


def test_names_before_a_changed_fact_count_where_they_were_matched_one_by_one() -> None:
    old, new = ids("\u0120Paris", "\u0120London", "\u0120of"), ids("\u0120Paris", "\u0120Paris", "\u0120of")
    assert stale(old, new, fuzzy=[0, 1]) == [0, 1]
    assert stale(old, new, fuzzy=[1]) == [1]


def test_the_pieces_of_a_name_follow_its_changed_begin() -> None:
    old, new = ids("\u0120in", "\u0120Paris", "the", "\u0120of"), ids("\u0120in", "\u0120London", "the", "\u0120of")
    assert stale(old, new, fuzzy=[1]) == [1, 2]


def test_halo_follows_every_fact_and_ends_with_the_prompt() -> None:
    old, new = (
        ids("the", "\u0120Paris", "\u0120of", "\u0120in", "1"),
        ids("the", "\u0120London", "\u0120of", "\u0120in", "9"),
    )
    assert stale(old, new, halo=2, fuzzy=[1, 4]) == [1, 2, 3, 4]


def test_tokens_without_a_spelling_are_ordinary() -> None:
    facts = FactTokens(Vocabulary(WORDS[:3]), 5)  # type: ignore[arg-type]
    assert facts._kinds(np.arange(5)).facts.tolist() == [False, False, True, False, False]


COMMON = [
    "\u0120you",
    "\u0120and",
    "\u0120rose",
    "\u0120will",
    "\u0120sa",
    ".",
    ",",
    '."',
    '\u0120"',
    "\u010a",
    "\u0120went",
]
CAPITALS = [
    "\u0120You",
    "\u0120And",
    "\u0120Rose",
    "\u0120Will",
    "\u0120Sa",
    "\u0120Anna",
    "ul",
    "You",
    "\u0120rare",
    "\u0120Rare",
]
BOOK = [*COMMON, *(f"\u0120filler{number}" for number in range(300)), *CAPITALS]
"""Numbered by falling frequency; a twentieth of them is common."""


def stale_in_book(old: str, new: str, place: int) -> bool:
    """Whether the one fuzzily served token is another fact, in texts of spellings with _ for the space."""
    read, told = (
        np.array([BOOK.index(word.replace("_", "\u0120").replace("/", "\u010a")) for word in text.split()])
        for text in (old, new)
    )
    source = np.full(len(told), Source.MOVED, np.int8)
    source[place] = Source.FUZZY
    plan = ReusePlan(source, np.zeros(len(told), np.int64), np.arange(len(told)), ("a",))
    facts = FactTokens(Vocabulary(BOOK), len(BOOK))  # type: ignore[arg-type]
    return bool(facts.changed(plan, told, [Reference("a", read)], 0)[place])


@pytest.mark.parametrize("end", [".", '."', "/"])
def test_a_common_word_that_begins_a_sentence_is_no_name(end: str) -> None:
    assert not stale_in_book(f"_you _and _went {end} _And", f"_you _and _went {end} _You", 4)
    assert not stale_in_book("_And _went _and _you", "You _went _and _you", 0), "nor one that begins the text"
    assert not stale_in_book('_and . _" _and _went _you', '_and . _" _You _went _you', 3), "quotation marks between"


def test_in_a_sentence_its_capital_makes_it_a_name() -> None:
    assert stale_in_book("_will , _You _went _you", "_will , _Will _went _you", 2)
    assert stale_in_book('_will , _" _You _went _you', '_will , _" _Will _went _you', 3)


def test_what_the_text_never_writes_small_is_a_name() -> None:
    assert stale_in_book("_went . _You _went _you", "_went . _Rose _went _you", 2)
    assert stale_in_book("_went . _Rose _went _you", "_went . _You _went _you", 2), "the one that is told no more, too"
    assert not stale_in_book("_rose . _Rose _went _you", "_rose . _You _went _you", 2)


def test_rare_words_and_the_begins_of_names_stay_names() -> None:
    assert stale_in_book("_rare . _You _went _you", "_rare . _Rare _went _you", 2)
    assert stale_in_book("_went . _Anna _went _you", "_went . _You _went _you", 2)
    assert stale_in_book("_sa . _You ul _you", "_sa . _Sa ul _you", 2), "it goes on"
    assert stale_in_book("_sa . _Sa ul _you", "_sa . _You ul _you", 2)


def test_stale_facts_must_be_computed_by_ours_and_not_by_the_published_methods() -> None:
    source = np.full(40, Source.FUZZY, np.int8)
    plan = ReusePlan(source, np.zeros(40, np.int64), np.arange(40), ("a",), stale=np.arange(40) == 7)
    for policy, computed in ((ReusePolicy(), True), (ReusePolicy.paper(), False), (ReusePolicy.cacheblend(), False)):
        assert Needs.of(plan, selection_for(policy), 30).must[7] == computed
    assert not Needs.of(replace(plan, stale=None), selection_for(ReusePolicy()), 30).must[7]


def test_no_row_stands_in_for_the_first_one_nor_the_first_one_for_another() -> None:
    """The first token is every head's attention sink."""
    source = np.full(6, Source.MOVED, np.int8)
    plan = ReusePlan(source, np.zeros(6, np.int64), np.array([3, 4, 5, 0, 1, 2]), ("a",))
    needs = Needs.of(plan, selection_for(ReusePolicy()), fresh_from=6)
    assert np.flatnonzero(needs.must).tolist() == [0, 3]


@pytest.mark.real
def test_in_the_demo_vocabulary_digits_and_names_tell(demo: tuple[object, PreTrainedTokenizerBase]) -> None:
    _, tokenizer = demo
    facts = FactTokens(tokenizer, len(tokenizer))
    texts = {word: np.array(tokenizer(word)["input_ids"]) for word in ("in 3", "of Paris", "the house")}
    tells = {word: bool(facts._kinds(tokens).facts[-1]) for word, tokens in texts.items()}
    assert tells == {"in 3": True, "of Paris": True, "the house": False}
