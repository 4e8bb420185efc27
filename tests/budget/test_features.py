"""What the forecast is told of lists: wording that repeats, in another context."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from made_up_calibration import made_features
from semshare_core import ReusePolicy
from semshare_core.budget.features import FEATURES, PlanFeatures
from semshare_core.budget.goal import Goal
from semshare_core.budget.governor import plan_features
from semshare_core.match.context import context_mismatch
from semshare_core.match.plan import ReusePlan, Source

LINES, TOKENS = 8, 30
REPEATS = "share of that context, of rows in wording that repeats, unless computed in any case"


def lines_in(order: list[int], tokens: int = TOKENS) -> ReusePlan:
    """Lines of a reference that begin behind its first ten tokens, in another order, and a question of 20 tokens."""
    plan = ReusePlan.empty(10 + len(order) * tokens + 20)
    plan.serve(0, 10, Source.PREFIX, 0, 0)
    for place, line in enumerate(order):
        plan.serve(10 + place * tokens, 10 + (place + 1) * tokens, Source.MOVED, 0, 10 + line * tokens)
    return replace(plan, reference_ids=("a",), repeated=np.arange(len(plan)) % 2 == 0)


def features_of(plan: ReusePlan) -> PlanFeatures:
    found = plan_features(plan, Goal(ReusePolicy()), len(plan) - 20)
    assert found is not None
    return found


def test_repeated_wording_counts_by_how_much_its_context_has_changed() -> None:
    plan = lines_in(list(range(LINES))[::-1])
    found = features_of(plan)
    assert found.mismatch > 0.5 * found.moved
    assert found.repeated == pytest.approx(context_mismatch(plan)[0][10:-20][::2].sum())


def test_what_stands_behind_a_long_prefix_is_told_by_its_own_shares() -> None:
    """A file that is read again at the end of a long history: as shares of the prompt, its rows hardly show."""
    short, long = made_features(1), made_features(1)
    long = replace(short, tokens=short.tokens + 20_000)
    ratio = 0.3
    alike = ratio * short.tokens / long.tokens  # as many rows
    assert long.computed(alike) == short.computed(ratio)
    for name in ("log of the share of the suffix chosen", FEATURES[-1]):
        at = FEATURES.index(name)
        assert long.vector(alike)[at] == pytest.approx(short.vector(ratio)[at])
    assert long.vector(alike)[FEATURES.index("share computed")] < 0.2 * short.vector(ratio)[2]


def test_repeated_wording_that_only_shifts_adds_nothing() -> None:
    shifted = lines_in(list(range(LINES)))
    shifted.position[shifted.source == Source.MOVED] += 2  # two tokens of the reference are gone, as of an old date
    found = features_of(shifted)
    assert found.moved == LINES * TOKENS
    assert found.repeated < 0.1 * found.moved


def test_lines_that_are_computed_in_any_case_add_nothing() -> None:
    plan = lines_in(list(range(LINES))[::-1])
    stale = np.zeros(len(plan), bool)
    stale[10 : 10 + LINES // 2 * TOKENS] = True
    found = features_of(replace(plan, stale=stale))
    computed = context_mismatch(replace(plan, stale=stale))[0][10:-20][::2]
    assert found.must == LINES // 2 * TOKENS + 20
    assert found.repeated == pytest.approx(computed[LINES // 4 * TOKENS :].sum())


def test_where_nothing_is_known_of_the_wording_nothing_repeats() -> None:
    assert features_of(replace(lines_in([1, 0, 2]), repeated=None)).repeated == 0


def test_features_of_earlier_versions_are_read_without_it() -> None:
    before = {name: value for name, value in asdict(made_features(1)).items() if name != "repeated"}
    vector = PlanFeatures(**before).vector(0.2)
    assert vector[FEATURES.index(REPEATS)] == 0
    known = made_features(1, repeated=60.0)
    assert known.vector(0.2)[FEATURES.index(REPEATS)] == pytest.approx(60 / known.tokens)
