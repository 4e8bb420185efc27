"""Small prompts whose plans, seams and recomputed rows were worked out by hand.

Every letter is a token. A plan is written as four lines under the prompt: sources (3 prefix, 2 identical text at
another place, 1 fuzzy, 0 new), references (by number, ``-`` for none), positions (in base 36) and seams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.match import TokenTable, build_plan
from semshare_core.tokens import Tokens
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


def tokens_of(text: str) -> Tokens:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


@dataclass(frozen=True)
class Text:
    id: str
    tokens: Tokens


def check_plan(
    target: str, references: dict[str, str], *, prefix: tuple[str, int] | None = None, fuzzy: str = "", plan: str
) -> None:
    """``plan``: its four lines. Runs of three tokens count."""
    embeddings = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))
    embeddings[ord("2")] = embeddings[ord("1")] + 0.01  # alike
    made = build_plan(
        tokens_of(target),
        [Text(name, tokens_of(text)) for name, text in references.items()],
        ReusePolicy(min_run=3),
        TokenTable(embeddings),
        prefix=prefix,
        fuzzy=list(fuzzy),
    )
    written = [
        made.source.tolist(),
        ["-" if number < 0 else str(number) for number in made.reference],
        ["-" if place < 0 else np.base_repr(int(place), 36).lower() for place in made.position],
        ["^" if seam else "." for seam in made.seams()],
    ]
    assert ["".join(map(str, line)) for line in written] == plan.split()


def test_a_prefix_is_served_in_place_and_has_no_seam() -> None:
    check_plan(
        "abcdefXYZ",
        {"a": "abcdefgh"},
        prefix=("a", 6),
        plan="""
        333333000
        000000---
        012345---
        .........
        """,
    )


def test_two_passages_that_change_places_begin_with_a_seam_each() -> None:
    """The second stood 10 tokens further on, the first 10 tokens further back: both jump by more than an edit."""
    check_plan(
        "klmnopqrstabcdefghijXY",
        {"a": "abcdefghijklmnopqrst"},
        plan="""
        2222222222222222222200
        00000000000000000000--
        abcdefghij0123456789--
        ^.........^...........
        """,
    )


def test_words_put_in_are_an_edit_and_no_seam() -> None:
    """What follows stood two tokens before: a jump of an edit, and nothing that stood in between is missing."""
    check_plan(
        "abcdefXXghijkl",
        {"a": "abcdefghijkl"},
        prefix=("a", 6),
        plan="""
        33333300222222
        000000--000000
        012345--6789ab
        ..............
        """,
    )


def test_words_taken_out_are_a_seam() -> None:
    """As small a jump, but ``j`` has read ``ghi``, and now stands right behind ``f``."""
    check_plan(
        "abcdefjklm",
        {"a": "abcdefghijklm"},
        prefix=("a", 6),
        plan="""
        3333332222
        0000000000
        0123459abc
        ......^...
        """,
    )


def test_the_longest_run_is_taken_first_and_another_reference_is_a_seam() -> None:
    """``efghij`` stands in the second reference, but ``abcdefg`` is longer, and leaves it ``hij``."""
    check_plan(
        "abcdefghij",
        {"a": "abcdefg", "b": "efghij"},
        plan="""
        2222222222
        0000000111
        0123456345
        .......^..
        """,
    )


def test_fewer_tokens_than_a_run_are_new() -> None:
    check_plan(
        "XabYcdefZ",
        {"a": "abcdef"},
        plan="""
        000022220
        ----0000-
        ----2345-
        .........
        """,
    )


def test_another_word_in_its_place_is_fuzzy() -> None:
    """The prefix ends and the run begins beside it, so that ``2`` can only stand where ``1`` stood, which is alike."""
    check_plan(
        "abcdefgh2jklmnop",
        {"a": "abcdefgh1jklmnop"},
        prefix=("a", 8),
        fuzzy="a",
        plan="""
        3333333312222222
        0000000000000000
        0123456789abcdef
        ................
        """,
    )


# --- rows ---

FIRST = "the old boat comes back at six "
SECOND = "bread of rye keeps for a week, "
ASKED_BEFORE, QUESTION = "\n\nin what?", "\n\nand so?"
"""31 tokens, 31 tokens; of the question's 9 none is served: too short a run of them stands in the reference."""


def recomputed(reference: str, target: str, ratio: float) -> list[int]:
    """The prompt's tokens whose rows are computed."""
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer())
    engine.warm([reference])
    policy = ReusePolicy(recompute_ratio=ratio, matching="runs", fresh_tail=1)
    report = engine.prefill(target, reuse=policy, store=False).report
    assert report.outcome == "semantic"
    return np.flatnonzero(report.token_recomputed).tolist()


def test_at_no_budget_the_question_and_both_first_tokens_are_computed() -> None:
    """Token 0 was no prompt's first before, and token 31 was: every head rests on the first token."""
    rows = recomputed(FIRST + SECOND + ASKED_BEFORE, SECOND + FIRST + QUESTION, 0.0)
    assert rows == [0, 31, *range(62, 71)]


def test_a_small_budget_goes_to_the_first_four_tokens_behind_each_seam() -> None:
    """17 rows of 71: the question's nine, and twice four. To watch what the question reads would cost too many."""
    rows = recomputed(FIRST + SECOND + ASKED_BEFORE, SECOND + FIRST + QUESTION, 17.01 / 71)
    assert rows == [*range(4), *range(31, 35), *range(62, 71)]


def test_a_quotation_of_fewer_than_24_tokens_is_computed() -> None:
    """``boat comes back`` is an identical run of 16, but what it was read behind does not stand before it."""
    quoted = "boat comes back "
    assert quoted in FIRST
    rows = recomputed(FIRST + SECOND + ASKED_BEFORE, SECOND + quoted + QUESTION, 0.0)
    assert rows == [0, *range(31, 31 + 16 + 9)]
