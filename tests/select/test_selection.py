"""What is recomputed: how many rows per layer, which tokens first, and when reuse is given up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from decided import decided
from semshare_core import ReusePolicy
from semshare_core.budget.governor import Decision
from semshare_core.budget.levels import BOUNDS
from semshare_core.budget.needs import Needs
from semshare_core.budget.recompute import Budget, Layers, plan_recompute
from semshare_core.budget.schedule import rows_per_layer
from semshare_core.config import Schedule
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Evidence, selection_for

CODES = {"N": Source.NEW, "F": Source.FUZZY, "E": Source.MOVED, "P": Source.PREFIX}


def plan_from(text: str, moved: dict[int, int] | None = None) -> ReusePlan:
    """A plan over one reference, one letter per token; from token ``t`` on, positions are ``moved[t]`` further."""
    n = len(text)
    source = np.array([CODES[letter] for letter in text], np.int8)
    position = np.arange(n)
    for begin, shift in (moved or {}).items():
        position[begin:] = np.arange(begin, n) + shift
    new = source == Source.NEW
    return ReusePlan(source, np.where(new, -1, 0), np.where(new, -1, position), ("a",))


# --- how much for what ---------------------------------------------------------------------------------------------


def test_a_level_behind_a_long_prefix_still_chooses() -> None:
    """Its ceiling is a share of the whole prompt and may exceed what stands behind the prefix, but is not spent."""
    plan = plan_from("P" * 2000 + "E" * 300 + "F" + "E" * 299)
    selection = selection_for(ReusePolicy())
    needs = Needs.of(plan, selection, fresh_from=2580)
    policy = ReusePolicy(level="balanced")
    allotment = plan_recompute(plan, needs, selection, policy, Budget(0.4, fill=False, least=0.15), Layers(4))
    assert allotment.ranked
    assert allotment.watched == selection.watched_tokens
    assert not allotment.first[2000:2250].any(), "they are to be ranked"
    assert set(allotment.counts) == {int(0.15 * 2600)}
    whole = plan_recompute(plan, needs, selection, policy, Budget(0.4, fill=True), Layers(4))
    assert not whole.ranked
    assert set(whole.counts) == {599}


def test_what_cannot_be_watched_is_not() -> None:
    plan = plan_from("E" * 300 + "F" + "E" * 299)
    for name, policy in (("combined", ReusePolicy()), ("paper", ReusePolicy.paper())):
        selection = selection_for(policy)
        needs = Needs.of(plan, selection, fresh_from=580)
        seen, blind = (
            plan_recompute(plan, needs, selection, policy, Budget(0.3, fill=True), Layers(4, observable))
            for observable in (True, False)
        )
        assert seen.watched, name
        assert not blind.watched, name
        assert blind.counts.sum() > seen.counts.sum(), "what watching would cost is spent on rows"


# --- how many ----------------------------------------------------------------------------------------------------


@st.composite
def budgets(draw: st.DrawFn) -> dict:
    maximum = draw(st.integers(1, 400))
    layers = draw(st.integers(2, 32))
    first = draw(st.one_of(st.none(), st.integers(0, maximum)))
    return {
        "layer_rows": draw(st.floats(-10, 1.1 * maximum * layers)),
        "n_layers": layers,
        "schedule": draw(st.sampled_from(["constant", "decay"])),
        "decay": draw(st.floats(0.05, 1)),
        "first": first,
        "minimum": draw(st.integers(0, maximum if first is None else first)),
        "maximum": maximum,
    }


@given(budgets())
def test_rows_stay_within_the_budget_unless_the_minimum_forces_more(budget: dict) -> None:
    rows = rows_per_layer(**budget)
    first, minimum = budget["first"], budget["minimum"]
    assert len(rows) == budget["n_layers"]
    chosen = rows if first is None else rows[1:]
    assert (chosen >= minimum).all()
    assert (chosen <= budget["maximum"]).all()
    assert (np.diff(chosen) <= 0).all()
    if first is not None:
        assert rows[0] == first
    forced = minimum * len(chosen) + (first or 0)
    assert rows.sum() <= max(budget["layer_rows"] + 1e-6, forced)


STEEP = {"n_layers": 30, "schedule": "decay", "decay": 0.05, "first": None, "minimum": 5, "maximum": 100}


@given(budgets())
@example(STEEP | {"layer_rows": 400.0})
def test_the_budget_is_spent(budget: dict) -> None:
    """One row more in every layer that may still grow would be too much."""
    rows = rows_per_layer(**budget)
    chosen = rows if budget["first"] is None else rows[1:]
    growing = chosen < budget["maximum"]
    assume(growing.any())
    assert rows.sum() + growing.sum() > budget["layer_rows"] - 1e-6


@pytest.mark.parametrize("schedule", ["constant", "decay"])
def test_shape_of_the_schedules(schedule: Schedule) -> None:
    rows = rows_per_layer(3000, 10, schedule, 0.8, first=1000, minimum=0, maximum=1000)
    ratios = rows[2:] / rows[1:-1]
    np.testing.assert_allclose(ratios, 1 if schedule == "constant" else 0.8, atol=0.01)
    assert 2980 <= rows.sum() <= 3000


# --- which, by structure -----------------------------------------------------------------------------------------


def structural(plan: ReusePlan, **policy: object) -> list[int]:
    return np.flatnonzero(selection_for(ReusePolicy(**policy)).structural(plan)).tolist()


@pytest.mark.parametrize(
    ("text", "halo", "marked"),
    [
        ("EEEEEEEE", 2, []),
        ("EEEFEEEE", 0, [3]),
        ("EEEFEEEE", 2, [3, 4, 5]),
        ("EEENEEEE", 1, [3, 4]),
        ("EFEENEEE", 2, [1, 2, 3, 4, 5, 6]),
        ("EEEEEEEF", 3, [7]),
        ("NEEEEEEE", 3, [0, 1, 2, 3]),
        ("PPPFEEEE", 2, [3, 4, 5]),
    ],
)
@pytest.mark.parametrize("selection", ["non_exact", "combined"])
def test_halo_after_changed_tokens(text: str, halo: int, marked: list[int], selection: str) -> None:
    assert structural(plan_from(text), selection=selection, halo=halo) == marked


@pytest.mark.parametrize("halo", [0, 1, 4])
@pytest.mark.parametrize("selection", ["seams", "combined"])
def test_halo_after_seams(halo: int, selection: str) -> None:
    """A seam's halo counts the seam's own token: 4 means the first four tokens of the moved text."""
    plan = plan_from("E" * 40, moved={10: 50, 30: 0})
    expected = [*range(10, 10 + halo), *range(30, 30 + halo)]
    assert structural(plan, selection=selection, seam_halo=halo) == expected


def test_combined_marks_what_either_marks() -> None:
    plan = plan_from("EEEEEFEEEEEEEEEEEEEEEEEEEE", moved={15: 60})
    both = structural(plan, selection="combined", halo=1, seam_halo=3)
    changed = structural(plan, selection="non_exact", halo=1)
    seams = structural(plan, selection="seams", seam_halo=3)
    assert (both, changed, seams) == ([5, 6, 15, 16, 17], [5, 6], [15, 16, 17])


@pytest.mark.parametrize("selection", ["deviation", "paper", "random"])
def test_measuring_strategies_mark_nothing(selection: str) -> None:
    assert structural(plan_from("EFNEEE", moved={4: 30}), selection=selection) == []


# --- which, by rank ----------------------------------------------------------------------------------------------


def ranking(selection: str, plan: ReusePlan, seed: int = 0, **evidence: object) -> list[int]:
    policy = ReusePolicy(selection=selection, seed=seed)
    priority = selection_for(policy).priority(Evidence(plan, **evidence))
    assert priority.shape == (len(plan),)
    return np.argsort(-priority, kind="stable").tolist()


@pytest.mark.parametrize("selection", ["combined", "non_exact"])
def test_structure_ranks_changed_tokens_then_their_halos_then_the_rest(selection: str) -> None:
    order = ranking(selection, plan_from("EEEFEEEEEEFEEEEE"))
    assert order[:2] == [3, 10]
    assert order[2:6] == [4, 11, 5, 12], "nearer ones first"
    assert set(order[-3:]) == {0, 1, 2}, "what stands before every change comes last"


def test_seams_rank_by_distance() -> None:
    assert ranking("seams", plan_from("E" * 30, moved={20: 40}))[:4] == [20, 21, 22, 23]


def test_deviation_ranks_by_keys() -> None:
    keys, values = np.array([0, 3, 1, 2], np.float32), np.array([9, 0, 9, 9], np.float32)
    assert ranking("deviation", plan_from("EEEE"), key_deviation=keys, value_deviation=values) == [1, 3, 2, 0]


def test_combined_ranks_what_is_wrong_and_read() -> None:
    plan = plan_from("EEEF")
    influence = np.array([0.0, 3.0, 1.0, 2.0])
    assert ranking("combined", plan, influence=influence) == [3, 1, 2, 0], "changed and read, read, little read, not"
    assert ranking("combined", plan)[0] == 3, "nothing observed: the changed token"


def test_combined_ranks_rows_whose_context_is_gone_before_those_that_keep_it() -> None:
    plan = plan_from("E" * 100, {50: 900})  # the first half stands where it stood, the second has lost what it had read
    priority = selection_for(ReusePolicy()).priority(Evidence(plan))
    assert priority[50:].min() > 4 * priority[:50].max()


def test_paper_ranks_high_deviation_first_and_hot_before_cold() -> None:
    deviation = np.array([10, 9, 8, 7, 1, 1, 1, 1, 1, 1], np.float32)
    hot = np.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], bool)
    evidence = {"key_deviation": deviation / 2, "value_deviation": deviation / 2, "hot": hot}
    order = ranking("paper", plan_from("E" * 10), **evidence)
    assert order[:4] == [3, 0, 1, 2], "the four of high deviation: the hot one, then the cold ones by deviation"
    assert set(order[4:]) == set(range(4, 10))


def test_random_is_fixed_by_its_seed() -> None:
    plan = plan_from("E" * 50)
    assert ranking("random", plan, 1) == ranking("random", plan, 1) != ranking("random", plan, 2)


# --- whether at all ----------------------------------------------------------------------------------------------

GOOD = "P" * 20 + "E" * 400 + "F" * 20 + "E" * 100
DIFFERENT = "E" * 60 + "F" * 480


@given(st.floats(0, 1), st.text("NFEP", min_size=1, max_size=60))
def test_an_explicit_ratio_is_never_bypassed(ratio: float, text: str) -> None:
    plan = plan_from("".join(sorted(text, key=lambda letter: letter != "P")))
    decision = decided(plan, ReusePolicy(recompute_ratio=ratio), fresh_from=max(0, len(text) - 3))
    assert not decision.bypassed
    if set(plan.source[: max(0, len(text) - 3)]) & {Source.MOVED, Source.FUZZY}:
        assert decision.budget is not None
        assert (decision.budget.ratio, decision.budget.fill) == (ratio, True)
    else:
        assert decision.budget is None


@pytest.mark.parametrize("level", ["high", "balanced", "fast"])
def test_levels_reuse_what_pays(level: str) -> None:
    decision = decided(plan_from(GOOD), ReusePolicy(level=level), fresh_from=len(GOOD) - 16)
    assert decision.budget is not None
    assert not decision.bypassed
    assert not decision.budget.fill, "a level's budget is a ceiling"


def test_a_faster_level_spends_no_more() -> None:
    fast, balanced, high = (
        decided(plan_from(GOOD), ReusePolicy(level=level), len(GOOD) - 16).budget
        for level in ("fast", "balanced", "high")
    )
    assert fast is not None
    assert balanced is not None
    assert high is not None
    assert fast.ratio <= balanced.ratio <= high.ratio < 1


@pytest.mark.parametrize("level", ["high", "balanced", "fast"])
def test_a_model_without_calibration_draws_on_approximate_rows_as_long_as_the_bound_allows(level: str) -> None:
    plan = plan_from(GOOD)

    def drawing_on(account: float) -> Decision:
        drawn = replace(plan, account=np.where(plan.served, account, 0.0))
        return decided(drawn, ReusePolicy(level=level), len(GOOD) - 16)

    bound = BOUNDS[level].kl
    lossless, little, much = (
        decided(plan, ReusePolicy(level=level), len(GOOD) - 16),
        drawing_on(bound / 9),
        drawing_on(4 * bound),
    )
    assert lossless.budget is not None
    assert lossless.budget == little.budget
    assert lossless.account < little.account <= bound
    assert much.budget is None
    assert much.bypassed
    fixed = replace(plan, account=np.full(len(plan), np.inf))
    assert decided(fixed, ReusePolicy(recompute_ratio=0.3), len(GOOD) - 16).budget is not None, (
        "whoever names a ratio gets it"
    )


@pytest.mark.parametrize("level", ["high", "balanced", "fast"])
def test_levels_give_up_on_other_texts(level: str) -> None:
    decision = decided(plan_from(DIFFERENT), ReusePolicy(level=level), fresh_from=len(DIFFERENT) - 16)
    assert decision.budget is None
    assert not decision.bypassed, "60 common words are no reuse given up"
    assert "too different" in decision.reason
    more = decided(plan_from("E" * 64 + DIFFERENT), ReusePolicy(level=level), fresh_from=len(DIFFERENT) + 48)
    assert more.budget is None
    assert more.bypassed, "what could be reused is not good enough"
    assert "too different" in more.reason


@pytest.mark.parametrize("level", ["high", "balanced", "fast"])
@pytest.mark.parametrize(
    ("text", "fresh"),
    [("E" * 70, 16), ("P" * 2000 + "E" * 40, 16), ("E" * 300, 290), ("E" * 80 + "N" * 400, 16)],
    ids=["short", "long prefix", "long question", "mostly new"],
)
def test_levels_give_up_where_little_is_saved(level: str, text: str, fresh: int) -> None:
    decision = decided(plan_from(text), ReusePolicy(level=level), fresh_from=len(text) - fresh)
    assert decision.budget is None
    assert decision.bypassed
    assert decision.reason


@pytest.mark.parametrize("policy", [ReusePolicy(level="fast"), ReusePolicy(recompute_ratio=0.2), ReusePolicy.paper()])
@pytest.mark.parametrize("text", ["N" * 300, "P" * 200 + "N" * 100, "P" * 299 + "F", "P" * 290 + "E" * 10])
def test_nothing_to_reuse_is_a_miss_and_no_bypass(policy: ReusePolicy, text: str) -> None:
    decision = decided(plan_from(text), policy, fresh_from=290)
    assert decision.budget is None
    assert not decision.bypassed
    assert decision.reason
    assert "different" not in decision.reason, "what is computed afresh anyway need not be alike"


def test_the_published_schedule_sets_its_own_ratio() -> None:
    decision = decided(plan_from(DIFFERENT), ReusePolicy.paper(), fresh_from=len(DIFFERENT) - 16)
    assert decision.budget is not None
    assert 0.05 < decision.budget.ratio < 0.4
