"""Wording that stands in a prompt several times."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from semshare_core.match.repetition import repeated


def test_the_lines_of_a_list_repeat_all_but_what_differs() -> None:
    lines = [[name, 1, 2, 3, name + 100, 4] for name in (50, 51, 52, 53)]
    marked = repeated(np.array(lines, np.int64).ravel()).reshape(4, 6)
    assert marked.tolist() == [[False, True, True, True, False, False]] * 4


def test_what_stands_there_three_times_is_prose() -> None:
    three = np.array([1, 2, 3, 60, 1, 2, 3, 61, 1, 2, 3], np.int64)
    assert not repeated(three).any()
    assert repeated(np.concatenate((three, [62, 1, 2, 3]))).sum() == 12


def test_copies_of_one_text_are_no_list() -> None:
    sentence = np.arange(30)
    assert not repeated(np.tile(sentence, 25)).any()
    lines = [np.where(sentence % 15 == 14, 100 + sentence + 30 * line, sentence) for line in range(25)]
    assert repeated(np.concatenate(lines)).sum() == 25 * 28


@given(st.lists(st.integers(0, 2), max_size=40))
def test_it_is_every_token_of_a_triple_with_four_places(tokens: list[int]) -> None:
    triples = [tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)]
    lines = [tuple(tokens[at : at + 24]) if at + 24 <= len(tokens) else (at,) for at in range(len(triples))]
    kinds = {
        triple: {line for line, other in zip(lines, triples, strict=True) if other == triple} for triple in triples
    }
    often = [at for at, triple in enumerate(triples) if len(kinds[triple]) >= 4]
    expected = [any(at <= token < at + 3 for at in often) for token in range(len(tokens))]
    assert repeated(np.array(tokens, np.int64)).tolist() == expected
