"""The governor's reasons are true of the call: no negative figure, nothing beyond the prompt, the right subject."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decided import decided
from made_up_calibration import made, made_features
from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.goal import Goal
from semshare_core.budget.governor import _by_rule
from semshare_core.budget.wording import MIN_SAVED_TOKENS, no_ratio
from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.report.reasons import Reason

LEVELS = ["high", "balanced", "fast"]


@functools.cache
def calibrations() -> dict[str, Calibration | None]:
    found = made()
    return {
        "none": None,
        "good": found,
        "hopeless": made(scale=1e4),
        "without a margin": found.model_copy(update={"margins": dict.fromkeys(LEVELS)}),
    }


@st.composite
def plans(draw: st.DrawFn) -> tuple[ReusePlan, int]:
    """A plan with a prefix of any length, and where its question begins."""
    prefix = draw(st.integers(0, 3000))
    stretches = draw(st.lists(st.tuples(st.sampled_from(list(Source)[:3]), st.integers(1, 400)), max_size=5))
    source = np.repeat([Source.PREFIX, *(kind for kind, _ in stretches)], [prefix, *(n for _, n in stretches)])
    n = max(1, len(source))
    source = np.resize(source, n).astype(np.int8) if len(source) else np.zeros(1, np.int8)
    served = source != Source.NEW
    position = np.where(source == Source.PREFIX, np.arange(n), np.where(served, np.arange(n) + 7, -1))
    account = draw(st.sampled_from([None, 0.001, 1.0]))
    accounts = None if account is None else np.where(served, account, 0.0)
    plan = ReusePlan(source, np.where(served, 0, -1), position, ("a",), similarity=0.9, account=accounts)
    return plan, draw(st.integers(0, n))


@settings(deadline=None)
@given(plans(), st.sampled_from(LEVELS), st.sampled_from(["none", "good", "hopeless", "without a margin"]))
def test_no_reason_has_a_negative_figure_or_one_beyond_the_prompt(
    made_up: tuple[ReusePlan, int], level: str, calibration: str
) -> None:
    plan, fresh_from = made_up
    decision = decided(plan, ReusePolicy(level=level), fresh_from, calibration=calibrations()[calibration])
    assert decision.reason
    assert not re.search(r"-\d", decision.reason), decision.reason
    figures = [int(figure) for figure in re.findall(r"\d+(?= (?:of|tokens))", decision.reason)]
    assert max(figures, default=0) <= len(plan), decision.reason
    assert all(int(figure) <= 100 for figure in re.findall(r"(\d+)%", decision.reason)), decision.reason


@given(
    st.integers(1, 3000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 3000),
    st.sampled_from(LEVELS),
)
@example(322, 0.1, 0.1, 0.9, 2400, "balanced")  # said "only -638 of 322 tokens would be saved"
def test_a_fixed_share_never_computes_more_than_stands_behind_the_prefix(
    suffix: int, must: float, worth: float, moved: float, prefix: int, level: str
) -> None:
    features = made_features(
        1,
        tokens=prefix + suffix,
        suffix=suffix,
        must=int(must * suffix),
        worth=max(int(must * suffix), int(worth * suffix)),
        moved=max(1, int(moved * suffix)),
        fuzzy=0,
        new=0,
    )
    reason = _by_rule(features, Goal(ReusePolicy(level=level))).reason  # type: ignore[arg-type]
    found = re.fullmatch(r"only (-?\d+) of (\d+) tokens would be saved", reason)
    if found is not None:
        assert 0 <= int(found[1]) <= int(found[2]) == suffix


def features_of(**changes: float) -> PlanFeatures:
    return made_features(3, **({"tokens": 1000, "suffix": 1000, "must": 40, "worth": 60, "new": 0} | changes))


def test_why_no_ratio_serves_is_said_of_what_it_is() -> None:
    found = made()
    nowhere = found.model_copy(update={"margins": dict.fromkeys(LEVELS)})
    assert no_ratio(features_of(), "fast", nowhere) == Reason.NO_MARGIN.text(level="fast", bound=0.15)
    much = features_of(tokens=2000, suffix=2000, must=1700, worth=1800, moved=280, new=1680, fuzzy=0)
    assert no_ratio(much, "fast", found) == Reason.TOO_MUCH_CHANGED.text(must=1700, tokens=2000)
    short = features_of(tokens=5000, suffix=80, must=30, worth=30, moved=60)
    assert no_ratio(short, "fast", found) == "only 0 of 80 tokens would be saved"
    beyond = no_ratio(features_of(moved=940, fuzzy=0), "balanced", found)
    assert "to compute 500 of 1000 tokens is not expected to keep the KL of 'balanced' within 0.05" in beyond


@settings(deadline=None)
@given(st.integers(0, 1 << 20), st.sampled_from(LEVELS))
def test_what_more_could_be_computed_would_still_save_enough(seed: int, level: str) -> None:
    features = made_features(seed)
    reason = no_ratio(features, level, calibrations()["good"])  # type: ignore[arg-type]
    if found := re.match(r"to compute (\d+) of (\d+) tokens", reason):
        assert int(found[2]) - int(found[1]) >= MIN_SAVED_TOKENS


def test_a_prefix_is_told_apart_from_what_stands_behind_it() -> None:
    source = np.repeat([Source.PREFIX, Source.MOVED, Source.NEW], [900, 70, 30]).astype(np.int8)
    position = np.where(source == Source.NEW, -1, np.arange(1000) + 5 * (source == Source.MOVED))
    plan = ReusePlan(source, np.where(source == Source.NEW, -1, 0), position, ("a",))
    for calibration in (None, calibrations()["hopeless"]):
        decision = decided(plan, ReusePolicy(level="balanced"), 980, calibration=calibration)
        assert decision.budget is None
        assert decision.reason.startswith("the first 900 of 1000 tokens are an earlier prompt's; the rest: ")
        assert "of 100 tokens" in decision.reason


@pytest.mark.parametrize(
    ("kinds", "fresh_from", "reason"),
    [
        ({Source.PREFIX: 90, Source.NEW: 10}, 80, Reason.ALL_BUT_THE_QUESTION.text(prefix=90, tokens=100)),
        ({Source.PREFIX: 50, Source.NEW: 50}, 80, Reason.ONLY_THE_PREFIX.text(prefix=50, tokens=100)),
        ({Source.NEW: 80, Source.MOVED: 20}, 80, Reason.ONLY_THE_QUESTION.text()),
        ({Source.NEW: 100}, 80, Reason.NOTHING_TO_REUSE.text()),
    ],
)
def test_why_nothing_behind_the_prefix_is_reused(kinds: dict[Source, int], fresh_from: int, reason: str) -> None:
    source = np.repeat(list(kinds), list(kinds.values())).astype(np.int8)
    new = source == Source.NEW
    plan = ReusePlan(source, np.where(new, -1, 0), np.where(new, -1, np.arange(100)), ("a",))
    assert decided(plan, ReusePolicy(level="balanced"), fresh_from).reason == reason


def test_what_is_served_has_a_reason_too() -> None:
    source = np.full(1000, Source.MOVED, np.int8)
    plan = ReusePlan(source, np.zeros(1000, np.int64), np.arange(1000) + 50, ("a",), similarity=0.95)
    level = decided(plan, ReusePolicy(level="fast"), 980, calibration=made(scale=1e-4))
    assert level.budget is not None
    assert re.fullmatch(
        r"\d+ of 1000 tokens are computed, which is expected to keep .* 'fast' within 0.15", level.reason
    )
    fixed = decided(plan, ReusePolicy(recompute_ratio=0.25), 980)
    assert fixed.reason == Reason.FIXED_RATIO.text(ratio=0.25)
