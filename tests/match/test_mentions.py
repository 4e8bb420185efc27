"""What unchanged text says of an edited fact's subject is computed, too."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from semshare_core.match.facts import FactTokens
from semshare_core.match.mentions import Words, mentioning
from semshare_core.match.plan import ReusePlan, Source

FILLER = "\n".join(f"Guests of the {name} may leave their coats there." for name in ("bar", "hotel", "museum", "zoo"))


@dataclass(frozen=True)
class Text:
    """Sentences of words; a word is one token, and 0 is a mark."""

    sentences: list[list[int]]

    def words(self) -> Words:
        tokens = np.array([word for sentence in self.sentences for word in sentence], np.int64)
        at = np.repeat(np.arange(len(self.sentences)), [len(sentence) for sentence in self.sentences])
        return Words(np.arange(len(tokens)), tokens.astype(np.uint64), at, tokens > 0)


def mentioned(sentences: list[list[int]], changed: list[int], reused: list[int] | None = None) -> list[int]:
    """The numbers of the sentences found, where the tokens ``changed`` are edited and all others, or these, reused."""
    text = Text(sentences).words()
    n = len(text.names)
    differs, kept = (
        np.isin(np.arange(n), changed),
        np.ones(n, bool) if reused is None else np.isin(np.arange(n), reused),
    )
    found = mentioning(text, differs, kept & ~differs)
    whole = [set(found[text.sentences == number].tolist()) for number in range(len(sentences))]
    assert all(len(marks) == 1 for marks in whole), "a sentence is computed as a whole"
    return [number for number, marks in enumerate(whole) if True in marks]


def test_a_later_sentence_with_half_of_the_words_of_an_edited_one_is_found() -> None:
    assert mentioned([[1, 2, 90], [50, 51], [60, 1, 2, 61]], [2]) == [2]
    assert mentioned([[1, 2, 90], [60, 1, 61]], [2]) == [1], "one of two"
    assert mentioned([[1, 2, 3, 90], [60, 1, 61]], [3]) == [], "one of three"


def test_an_earlier_sentence_has_not_read_the_fact() -> None:
    assert mentioned([[60, 1, 2], [1, 2, 90]], [5]) == []


def test_an_edited_sentence_states_its_own_fact() -> None:
    assert mentioned([[1, 2, 90], [1, 2, 91]], [2, 5]) == []


def test_a_sentence_that_adds_no_word_says_the_same_and_nothing_of_it() -> None:
    assert mentioned([[1, 2, 90], [1, 2]], [2]) == []
    assert mentioned([[1, 2, 90], [2]], [2]) == []


def test_a_sentence_that_is_new_as_a_whole_edits_nothing() -> None:
    assert mentioned([[1, 2, 90], [1, 2, 61]], [2], reused=[3, 4, 5]) == []


def test_other_mentions_of_the_new_fact_depend_on_nothing() -> None:
    assert mentioned([[1, 2, 90], [90, 61]], [2]) == []


def test_what_the_whole_prompt_is_about_and_marks_link_nothing() -> None:
    assert mentioned([[1, 90], *[[1, 60 + number] for number in range(3)]], [1]) == [1, 2, 3]
    assert mentioned([[1, 90], *[[1, 60 + number] for number in range(4)]], [1]) == []
    assert mentioned([[0, 90], [0, 60]], [1]) == []


def test_what_is_behind_a_token_of_its_sentence() -> None:
    words = Text([[1, 2, 3], [4, 5]]).words()
    assert words.behind(np.array([False, True, False, False, False])).tolist() == [False, False, True, False, False]
    assert words.behind(np.array([True, False, False, False, True])).tolist() == [False, True, True, False, False]


@st.composite
def edited_texts(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    sentences = draw(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=14))
    n = sum(map(len, sentences))
    return sentences, draw(st.lists(st.integers(0, n - 1), max_size=6, unique=True))


@given(edited_texts())
def test_it_is_every_sentence_that_a_plain_reading_of_the_rule_finds(edited: tuple[list[list[int]], list[int]]) -> None:
    sentences, changed = edited
    begins = np.cumsum([0, *map(len, sentences)])
    places = [{at - begins[number] for at in changed if begins[number] <= at < begins[number + 1]}
              for number in range(len(sentences))]  # fmt: skip
    told = [
        {word for place, word in enumerate(sentence) if word and place not in at}
        for sentence, at in zip(sentences, places, strict=True)
    ]
    rare = {word for word in range(1, 10) if sum(word in words for words in told) <= 4}
    expected = [
        later
        for later, words in enumerate(told)
        if not places[later]
        and any(
            places[first]
            and len(places[first]) < len(sentences[first])
            and told[first] & words & rare
            and 2 * len(told[first] & words & rare) >= len(told[first])
            and not words <= told[first]
            for first in range(later)
        )
    ]
    assert mentioned(sentences, changed) == expected


@pytest.mark.real
def test_in_the_demo_vocabulary_a_place_that_moved_takes_along_what_is_said_of_it(
    demo: tuple[object, PreTrainedTokenizerBase],
) -> None:
    tokenizer = demo[1]
    text = "\n".join(
        ("The map library is in {city}.", FILLER, "The archive is 3.5 km from the map library.", "It is old.")
    )
    old, new = (np.array(tokenizer(text.format(city=city))["input_ids"]) for city in ("Oslo", "Rome"))
    assert len(old) == len(new)
    source = np.where(old == new, Source.MOVED, Source.FUZZY).astype(np.int8)
    plan = ReusePlan(source, np.zeros(len(new), np.int64), np.arange(len(new)), ("a",))
    facts = FactTokens(tokenizer, len(tokenizer))

    @dataclass(frozen=True)
    class Reference:
        id: str
        tokens: np.ndarray

    stale = facts.changed(plan, new, [Reference("a", old)], 0)
    told = "The archive is 3.5 km from the map library.\n"
    assert tokenizer.decode(new[stale]) == " Rome" + told

    nothing = np.where(old == new, Source.MOVED, Source.NEW).astype(np.int8)  # no row serves the new city
    assert tokenizer.decode(new[facts.changed(replace(plan, source=nothing), new, [Reference("a", old)], 0)]) == told
    begin = np.where(np.arange(len(new)) == 0, Source.NEW, Source.MOVED).astype(np.int8)  # a word is put in
    assert not facts.changed(replace(plan, source=begin), new, [Reference("a", new)], 0).any()
