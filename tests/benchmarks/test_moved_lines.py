"""Lines in another order: the pairs of the section ``lists``."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import pytest

import benchmarks.ablations  # noqa: F401 -- registers the selection
from benchmarks.ablations.whole_passages import WholePassages
from benchmarks.workloads.moved_lines import Order, Wording, moved_lines
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select.base import Evidence

PROSE = [" ".join(f"Word{n} w{n * 7 % 91} v{n * 5 % 89}" for n in range(at, at + 8)) + "." for at in range(0, 400, 8)]


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("wording", get_args(Wording))
def test_both_prompts_have_the_same_lines_and_the_same_question(wording: Wording, order: Order) -> None:
    for pair in moved_lines(wording, order, "last", PROSE, count=3, lines=8):
        before, after = (str(prompt[0]["content"]).split("\n") for prompt in (pair.reference, pair.target))  # type: ignore[index]
        assert before != after
        assert sorted(before) == sorted(after)
        assert before[-1] == after[-1]
        assert len(set(before[:-2])) == 8


def test_only_lines_of_one_wording_repeat() -> None:
    share = {}
    for wording in get_args(Wording):
        [pair] = moved_lines(wording, "any order", "last", PROSE, count=1, lines=8)
        words = str(pair.target[0]["content"]).split()  # type: ignore[index]
        grams = list(zip(words, words[1:], words[2:], strict=False))
        counts = Counter(grams)
        share[wording] = np.mean([counts[gram] >= 4 for gram in grams])
    assert share["one wording"] > 0.25 > 0.05 > share["prose"]


def test_whole_passages_go_by_what_is_read_of_them() -> None:
    plan = ReusePlan.empty(6)
    for at, position in enumerate((20, 40, 0)):
        plan.serve(2 * at, 2 * at + 2, Source.MOVED, 0, position)
    influence = np.array([0.0, 0.5, 0.3, 0.3, 0.1, 0.0])
    ranked = WholePassages().priority(Evidence(plan, influence=influence))
    assert ranked[2] == ranked[3] > ranked[0] == ranked[1] > ranked[4] == ranked[5]
    assert np.diff(WholePassages().priority(Evidence(plan))).max() <= 0, "without influence in the order of the text"
