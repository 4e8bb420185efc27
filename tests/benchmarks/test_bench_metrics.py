"""The benchmark suite's numbers: metrics of items, and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench_items import made_item
from benchmarks.bench.item import Item, rouge_l
from benchmarks.bench.metrics import (
    ACCURACY,
    AGREEMENT,
    CLEAR_LEAD,
    KEPT,
    KEPT_CLEAR,
    KL,
    KL_P95,
    KV_SHARE,
    PEAK,
    SPEED,
    STALE,
    Metric,
    above,
    approximate,
    bootstrap,
    by_system,
    common_cases,
    same_cases,
    wilson,
)
from semshare_core.budget.levels import MEASURED_TOKENS


def _value(metric: Metric, items: list[Item]) -> float:
    found = metric.estimate(items)
    assert found is not None
    return found.value


def test_speed_is_the_geometric_mean_of_medians() -> None:
    items = [
        made_item(ttft_ms=[10.0, 25.0, 900.0], full_ms=[100.0, 100.0, 5000.0]),
        made_item(ttft_ms=[100.0], full_ms=[100.0]),
    ]
    assert _value(SPEED, items) == pytest.approx(2.0)  # of 4 and 1


def test_divergence_and_agreement() -> None:
    items = [made_item(kl=[0.1, 0.3], agree=[1, 0]), made_item(kl=[0.0, 0.0], agree=[1, 1]), made_item(kl=[], agree=[])]
    assert _value(KL, items) == pytest.approx(0.1)
    assert _value(AGREEMENT, items) == pytest.approx(0.75)
    found = KL.estimate(items)
    assert found is not None
    assert found.count == 2  # who gives no logits is not counted as perfect


def test_the_95th_percentile_is_over_cases() -> None:
    items = [made_item(kl=[float(number)] * 3) for number in range(101)]
    assert _value(KL_P95, items) == pytest.approx(95)


def test_a_promise_is_about_the_first_tokens_alone() -> None:
    late = made_item(kl=[0.0] * MEASURED_TOKENS + [100.0] * 16)
    early = made_item(kl=[0.06] * MEASURED_TOKENS + [0.0] * 16)
    assert _value(above("balanced"), [late, early]) == 0.5
    assert _value(above("fast"), [late, early]) == 0.0


def test_answers_are_kept_only_where_the_full_prefill_gives_them() -> None:
    items = [
        made_item(answered=True, full_answered=True),
        made_item(answered=False, full_answered=True),
        made_item(answered=True, full_answered=False),
        made_item(),
    ]
    assert _value(KEPT, items) == 0.5
    assert _value(ACCURACY, items) == pytest.approx(2 / 3)
    assert KEPT.estimate([made_item(answered=False, full_answered=False)]) is None
    assert STALE.estimate(items) is None
    assert _value(STALE, [made_item(stale=True), made_item(stale=False)]) == 0.5


def test_answers_that_hang_by_a_hair_are_told_apart() -> None:
    items = [
        made_item(answered=True, full_answered=True, full_lead=CLEAR_LEAD),
        made_item(answered=False, full_answered=True, full_lead=CLEAR_LEAD - 0.01),
        made_item(answered=True, full_answered=False, full_lead=9.0),
    ]
    assert _value(KEPT, items) == 0.5
    assert _value(KEPT_CLEAR, items) == 1.0
    assert KEPT_CLEAR.estimate(items[1:]) is None


def test_bytes() -> None:
    assert _value(KV_SHARE, [made_item(kv_bytes=580)]) == pytest.approx(0.58)
    assert _value(PEAK, [made_item(peak_bytes=2**31), made_item(peak_bytes=None)]) == 2.0


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30))
def test_an_interval_holds_its_mean_and_is_the_same_again(values: list[float]) -> None:
    found = bootstrap(values, lambda array: array.mean(axis=-1))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap(values, lambda array: array.mean(axis=-1))


def test_an_interval_has_the_width_that_theory_gives_it() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    found = bootstrap(values, lambda array: array.mean(axis=-1))
    expected = 2 * 1.96 * float(np.std(values)) / 20
    assert found.high - found.low == pytest.approx(expected, rel=0.15)
    assert found.low < float(np.mean(values)) < found.high


@pytest.mark.parametrize(
    ("yes", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (1, 1, 0.2065, 1),
    ],
)
def test_shares_have_wilsons_interval(yes: int, count: int, low: float, high: float) -> None:
    found = wilson([1.0] * yes + [0.0] * (count - yes))
    assert (found.value, found.count) == (yes / count, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("metric", [KEPT, KEPT_CLEAR, ACCURACY, STALE, above("high")])
def test_shares_that_are_all_alike_are_not_certain(metric: Metric) -> None:
    items = [made_item(case=str(at), answered=True, full_answered=True, stale=False, kl=[0.0]) for at in range(10)]
    found = metric.estimate(items)
    assert found is not None
    assert found.high - found.low > 0.25
    assert metric.value(items) == found.value


def test_only_approximate_reuse_can_break_a_promise() -> None:
    items = [made_item(outcome=outcome) for outcome in ("semantic", "prefix", "exact", "bypass", "miss")]
    assert approximate(items) == items[:1]


def test_rouge_l_is_of_words() -> None:
    assert rouge_l("the cat sat on the mat", "the cat sat on the mat") == 1.0
    assert rouge_l("the cat sat", "a dog ran") == 0.0
    assert rouge_l("a b c d", "a x b y") == pytest.approx(0.5)
    assert rouge_l("", "") == 1.0
    assert rouge_l("", "a") == 0.0


def test_systems_are_compared_on_the_cases_that_all_have() -> None:
    items = [made_item("one", "a"), made_item("one", "b"), made_item("two", "b"), made_item("two", "c", "elsewhere")]
    groups = by_system(items, "paraphrase")
    assert {name: [item.case for item in group] for name, group in groups.items()} == {"one": ["a", "b"], "two": ["b"]}
    shared = common_cases(groups)
    assert {name: [item.case for item in group] for name, group in shared.items()} == {"one": ["b"], "two": ["b"]}
    assert common_cases({}) == {}


def test_what_is_compared_stands_on_the_same_cases() -> None:
    def measured(system: str, cases: str) -> list[Item]:
        return [made_item(system, case) for case in cases]

    tables = same_cases(
        {"paper": measured("paper", "ab"), "ours": measured("ours", "abc"), "new": measured("new", "d")}
    )
    assert [{name: "".join(item.case for item in group) for name, group in table.items()} for table in tables] == [
        {"paper": "ab", "ours": "ab"},
        {"ours": "abc"},
        {"new": "d"},
    ]
    assert same_cases({}) == []
