"""Numbers and names are seen in every script, whole or split, whichever way a vocabulary spells its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from test_facts import Reference, Vocabulary
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from semshare_core.match.facts import FactTokens
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.match.spelling import joined

STAND_INS = bytes_to_unicode()
DIGITS = {
    "devanagari": ("\u0967", "\u0968"),
    "full-width": ("\uff11", "\uff12"),
    "arabic": ("\u0661", "\u0662"),
    "fraction": ("\u00bd", "\u00bc"),
}
PARIS = " \u041f\u0430\u0440\u0438\u0436"  # a Cyrillic name
CITY = " \u0433\u043e\u0440\u043e\u0434"  # and a word, whose first letter has a stand-in that is a digit
WORDS = {
    "cyrillic": (CITY, " \u0440\u0435\u043a\u0430"),
    "greek": (" \u03c0\u03cc\u03bb\u03b7", " \u03ba\u03b1\u03b9"),
    "arabic": (" \u0645\u062f\u064a\u0646\u0629", " \u0646\u0647\u0631"),
    "devanagari": (" \u0936\u0939\u0930", " \u0928\u0926\u0940"),
    "chinese": ("\u57ce\u5e02", "\u6cb3\u6d41"),
}

Tokens = Sequence[str | bytes]
Spell = Callable[[str | bytes], str]


def byte_level(token: str | bytes) -> str:
    return "".join(STAND_INS[byte] for byte in (token.encode() if isinstance(token, str) else token))


def pieces(token: str | bytes) -> str:
    return token.replace(" ", "\u2581") if isinstance(token, str) else f"<0x{token[0]:02X}>"


SPELLINGS = pytest.mark.parametrize("spell", [byte_level, pieces])


def split(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def stale(spell: Spell, old: Tokens, new: Tokens) -> list[int]:
    """Places of other facts, where one token of a text that is served fuzzily stands in for the other."""
    told = [spell(token) for token in [*old, *new, " the", " of"]]
    words = list(dict.fromkeys(told))
    read, now = (np.array([words.index(spell(token)) for token in text]) for text in (old, new))
    plan = ReusePlan(
        np.full(len(now), Source.FUZZY, np.int8), np.zeros(len(now), np.int64), np.arange(len(now)), ("a",)
    )
    facts = FactTokens(Vocabulary(words), len(words))  # type: ignore[arg-type]
    return np.flatnonzero(facts.changed(plan, now, [Reference("a", read)], 0)).tolist()


@SPELLINGS
@pytest.mark.parametrize("digits", DIGITS.values(), ids=DIGITS)
def test_digits_of_all_scripts_are_numbers(spell: Spell, digits: tuple[str, str]) -> None:
    one, two = digits
    assert stale(spell, [" the", " ", one, " of"], [" the", " ", two, " of"]) == [2]


@SPELLINGS
@pytest.mark.parametrize("digits", DIGITS.values(), ids=DIGITS)
def test_a_digit_that_is_split_over_tokens_is_a_number_in_all_its_parts(spell: Spell, digits: tuple[str, str]) -> None:
    one, two = (split(digit) for digit in digits)
    assert stale(spell, [" the", *one, " of"], [" the", *two, " of"]) == list(range(1, 1 + len(two)))


@SPELLINGS
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_words_without_a_capital_are_no_facts(spell: Spell, words: tuple[str, str]) -> None:
    old, new = words
    assert stale(spell, [" the", old, " of"], [" the", new, " of"]) == []
    assert stale(spell, [" the", *split(old)], [" the", *split(new)[: len(split(old))]]) == [], "nor are their bytes"


@SPELLINGS
def test_a_capital_of_another_script_begins_a_name(spell: Spell) -> None:
    assert stale(spell, [" the", CITY, " of"], [" the", PARIS, " of"]) == [1]
    assert stale(spell, [" the", " \u0440", " of"], [" the", " \u0420", "\u0438\u043c"]) == [1, 2], "with its rest"


@SPELLINGS
def test_names_go_on_behind_an_apostrophe_and_end_at_other_signs(spell: Spell) -> None:
    assert stale(spell, [" the", "\u2019", "s", " of"], [PARIS, "\u2019", "s", " of"]) == [0, 1, 2]
    assert stale(spell, [" the", "\u3002", "s", " of"], [PARIS, "\u3002", "s", " of"]) == [0]


def test_a_capital_that_is_split_over_tokens_begins_a_name() -> None:
    """The first byte is that of its small letter, too; as they were matched one by one, both are computed."""
    small, capital = b" \xd0", b"\xb3"
    assert stale(byte_level, [" the", small, capital, " of"], [" the", small, b"\x93", " of"]) == [1, 2]


@SPELLINGS
def test_line_breaks_are_no_numbers(spell: Spell) -> None:
    """SentencePiece spells them with digits: <0x0A>."""
    assert stale(spell, [" the", b"\n", " of"], [" the", b"\n", " of"]) == []


def test_a_common_word_of_another_script_that_begins_a_sentence_is_no_name() -> None:
    common, capital, rare = " \u0433\u043e\u0434", " \u0413\u043e\u0434", " \u0414\u0430"
    vocabulary = [common, " a", ".", *(f" filler{number}" for number in range(100)), capital, rare]
    facts = FactTokens(Vocabulary([byte_level(word) for word in vocabulary]), len(vocabulary))  # type: ignore[arg-type]
    plan = ReusePlan(np.array([0, 0, Source.FUZZY], np.int8), np.zeros(3, np.int64), np.arange(3), ("a",))
    old, new, named = (
        np.array([vocabulary.index(word) for word in (common, ".", last)]) for last in (" a", capital, rare)
    )
    assert not facts.changed(plan, new, [Reference("a", old)], 0).any()
    assert facts.changed(plan, named, [Reference("a", old)], 0).tolist() == [False, False, True]


def test_neighbours_say_whole_characters_and_stray_bytes_nothing_readable() -> None:
    assert joined([b"a\xd0", b"\x93\xe0\xa5", b"\xa7"]) == ["a\u0413", "\u0413\u0967", "\u0967"]
    assert not any(said.isalnum() for said in joined([b"\xd0", b"\xd0"]))


@pytest.mark.real
def test_in_the_demo_vocabulary_numbers_of_other_scripts_tell_and_ascii_is_as_calibrated(
    demo: tuple[object, PreTrainedTokenizerBase],
) -> None:
    _, tokenizer = demo
    facts = FactTokens(tokenizer, len(tokenizer))
    kinds = {text: facts._kinds(np.array(tokenizer(text)["input_ids"])) for text in ("\u0968\u0966", CITY, "a\n")}
    assert kinds["\u0968\u0966"].digits.all()
    assert not kinds[CITY].facts.any()
    assert kinds["a\n"].continues.tolist() == [True, True], "a line break goes on with the word before it"
