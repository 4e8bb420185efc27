"""Where a prompt first departs from the nearest earlier one, and by what."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from semshare_core.match.difference import first_difference
from semshare_core.match.nearest import nearest
from semshare_core.match.value_kinds import value_kind
from semshare_core.prompt.own_tokenizer import decode_ids
from semshare_core.report.first_difference import QUOTED, FirstDifference
from semshare_core.tokens import Tokens, common_prefix

BODY = (
    "You are a helpful assistant. The lighthouse at Vinga was built long ago. Its keeper lit the lamp at dusk. "
    "The ferry leaves at ten o'clock sharp and comes back in the evening. "
)
WEATHER, SEARCH, MAIL = (
    '{"name": "get_weather", "description": "The weather of a city."}\n',
    '{"name": "search_web", "description": "Looks something up on the web."}\n',
    '{"name": "send_mail", "description": "Writes a letter to somebody."}\n',
)
FIRST, SECOND = "user: Tell me about the ferry, please.\n", "user: And who was the keeper then?\n"

CASES = [
    ("date or time", "Today is Tuesday.", "Today is Monday."),
    ("date or time", "It is 2026-11-27T10:05:03Z.", "It is 2026-11-27T10:06:00Z."),
    ("date or time", "It is 2026-11-27.", "It is 2026-11-26."),
    ("date or time", "It is 27.11.2026, 9:05.", "It is 27.11.2026, 10:05."),
    ("date or time", "It is 1:05 pm.", "It is 11:05 am."),
    ("date or time", "It is Friday, 27 November 2026.", "It is Thursday, 26 November 2026."),
    ("date or time", "It is Nov 27, 2026 at 10:05.", "It is Nov 27, 2026 at 10:07."),
    ("date or time", "now=1764236713", "now=1764236999"),
    ("number", "There are 12 users.", "There are 123 users."),
    ("number", "It costs 3.50 a day.", "It costs 4.75 a day."),
    ("id", "Session 8f3a2c1d-77aa.", "Session 8f3b99cc-1234."),
    ("id", "Order ORD-29311.", "Order ORD-29377."),
    ("id", "Case 123456789012.", "Case 123456789555."),
    ("blocks in another order", WEATHER + SEARCH, SEARCH + WEATHER),
    ("blocks in another order", "Ben is in Rome.\nAnna is in Paris.\n", "Anna is in Paris.\nBen is in Rome.\n"),
    ("text inserted", WEATHER + MAIL + SEARCH, WEATHER + SEARCH),
    ("text removed", SECOND, FIRST + SECOND),
    ("other text", "The cat likes milk.", "The dog hates cheese."),
    ("other text", "Room seven is blue", "Room 12, blue"),
]


def ids(text: str) -> Tokens:
    """A token per byte, as the tiny tokenizer has them."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def text_of(tokens: Tokens) -> str:
    return bytes(int(token) for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(("kind", "here", "there"), CASES)
def test_what_stands_at_the_first_difference(kind: str, here: str, there: str) -> None:
    found = first_difference(ids(f"{here}\n{BODY}"), [ids(f"{there}\n{BODY}")], text_of)
    assert found is not None
    assert found.kind == kind
    index = common_prefix(ids(here), ids(there))
    assert found.index == index
    assert found.here == f"{here}\n{BODY}"[index : index + QUOTED]
    assert found.there == f"{there}\n{BODY}"[index : index + QUOTED]


@pytest.mark.real
@pytest.mark.parametrize(("kind", "here", "there"), CASES)
def test_the_same_in_the_tokens_of_a_real_model(
    kind: str, here: str, there: str, demo: tuple[object, PreTrainedTokenizerBase]
) -> None:
    _, tokenizer = demo

    def tokens(text: str) -> Tokens:
        return np.asarray(tokenizer(text)["input_ids"], np.int64)

    def spelled(tokens: Tokens) -> str:
        return decode_ids(tokenizer, tokens, special=True)

    found = first_difference(tokens(f"{here}\n{BODY * 2}"), [tokens(f"{there}\n{BODY * 2}")], spelled)
    assert found is not None
    assert found.kind == kind


def test_a_conversation_that_grows_is_no_fault() -> None:
    found = first_difference(ids(BODY + SECOND), [ids(BODY)], text_of)
    assert found == FirstDifference(index=len(BODY), kind="text added at the end", here=SECOND[:QUOTED], there="")


@pytest.mark.parametrize("others", [[], ["Cats"], [BODY + SECOND], [BODY]], ids=["none", "far", "longer", "same"])
def test_without_a_difference_there_is_none(others: list[str]) -> None:
    assert first_difference(ids(BODY), [ids(other) for other in others], text_of) is None


def test_of_several_the_one_with_most_shared_text_is_nearest() -> None:
    target = ids("Today is Tuesday.\n" + WEATHER + SEARCH + BODY)
    same_begin, most, all_but_the_date = (
        ids("Today is Tuesday.\n" + MAIL),
        ids(SEARCH + BODY),
        ids("Today is Monday.\n" + WEATHER + SEARCH + BODY),
    )
    assert nearest(target, [same_begin, most, all_but_the_date]) is all_but_the_date
    assert nearest(target, [same_begin, most]) is most
    assert nearest(target, [same_begin]) is same_begin
    longer = ids("Today is Monday.\n" + WEATHER + SEARCH + BODY + MAIL * 3)
    assert nearest(target, [longer, all_but_the_date]) is all_but_the_date, "with least other text"


letters = st.lists(st.integers(0, 5), max_size=60).map(lambda values: np.array(values, np.int64))


@given(letters, st.lists(letters, max_size=4))
@example(np.arange(20), [np.arange(20)])
@example(np.arange(20), [np.arange(9), np.arange(30)])
def test_the_index_is_the_length_of_the_common_beginning(target: Tokens, candidates: list[Tokens]) -> None:
    found = first_difference(target, candidates, lambda tokens: "".join(map(str, tokens)))
    other = nearest(target, candidates)
    if other is None or common_prefix(target, other) == len(target):
        assert found is None
        return
    assert found is not None
    assert found.index == common_prefix(target, other)
    assert found.here != found.there
    assert max(len(found.here), len(found.there)) <= QUOTED


@given(letters, st.lists(letters, min_size=1, max_size=4))
def test_no_other_candidate_shares_more(target: Tokens, candidates: list[Tokens]) -> None:
    def shared(tokens: Tokens) -> int:
        runs = {tuple(tokens[at : at + 8]) for at in range(len(tokens) - 7)}
        return sum(tuple(target[at : at + 8]) in runs for at in range(len(target) - 7))

    found = nearest(target, candidates)
    most = max(map(shared, candidates))
    assert (shared(found) if found is not None else 0) == most


@given(st.text("0123456789.:- abMonday", max_size=30), st.text("0123456789.:- abMonday", max_size=30))
def test_any_texts_have_a_kind_of_value_or_none(one: str, other: str) -> None:
    assert value_kind(one, other) == value_kind(other, one)
