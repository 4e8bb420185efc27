"""What is drawn from checked calls: a promise that is broken too often makes its level stricter."""

from __future__ import annotations

import pytest

from semshare_core import ReusePolicy, ReuseReport
from semshare_core.budget.method import method_of
from semshare_core.errors import QualityWarning
from semshare_core.quality.canary import CanaryCounts
from semshare_core.quality.promises import Promises
from semshare_core.report import Canary
from tiny_canary import asked, busy, engine_of, planted, reordered

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


def test_a_broken_promise_makes_the_level_stricter_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of two that break a bound that one in twenty may break are evidence enough; one is not."""
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0)
    with pytest.warns(QualityWarning) as told:
        reports = asked(engine, *(f"{number}?" for number in range(7)))
    served = [(each.level, each.served_level) for each in reports]
    for report in reports[:-1]:
        assert report.canary is not None
        assert (report.canary.level, report.canary.served_level) == (report.level, report.served_level)
        assert (report.canary.bound, report.canary.broken) == (0.0, True)
    assert served == [("fast", level) for level in ["fast"] * 2 + ["balanced"] * 2 + ["high"] * 2 + ["exact"]]
    assert reports[-1].outcome in ("prefix", "miss"), "nothing stricter than exact is left"
    first, *_ = [str(each.message) for each in told]
    assert len(told) == 3
    assert "2 of 2 checked calls" in first
    assert "served at 'balanced'" in first
    assert "more than 0.0 " in first
    tallies = {(each.level, each.served_level): each for each in engine.canary.tallies()}
    assert [(each.checked, each.broken) for each in tallies.values()] == [*[(2, 2)] * 3, (1, 0)]
    assert tallies["fast", "fast"].max_kl == max(
        each.kl for each in engine.canary.results() if each.served_level == "fast"
    )
    (other,) = asked(engine, "other?", reuse="balanced")
    assert other.served_level == "balanced", "a promise of its own"
    engine.canary.reset()
    assert (engine.canary.tallies(), engine.canary.results()) == ([], [])
    (back,) = asked(engine, "back?")
    assert back.served_level == "fast"


def test_calls_served_before_a_level_became_stricter_do_not_make_it_stricter_again() -> None:
    promises = Promises()
    late = Canary(id="a", level="fast", served_level="fast", status="measured", kl=1.0, bound=0.15, broken=True)
    assert [promises.count(late) is not None for _ in range(4)] == [False, True, False, False]
    assert promises.served_level("fast") == "balanced"
    assert [(each.checked, each.broken) for each in promises.tallies()] == [(4, 4)]


def test_a_stricter_level_shows_in_the_notebook() -> None:
    report = ReuseReport(outcome="miss", level="fast", served_level="high", prompt_tokens=1)
    assert "fast, served at high" in report._repr_html_()


def test_a_kept_promise_changes_nothing() -> None:
    engine = engine_of(level="fast")
    asked(engine, *(f"{number}?" for number in range(5)))
    assert engine.canary.served_level("fast") == "fast"
    assert [(each.checked, each.broken) for each in engine.canary.tallies()] == [(5, 0)]


@pytest.mark.parametrize("policy", [ReusePolicy(recompute_ratio=0.3, canary=1.0), ReusePolicy.paper(canary=1.0)])
def test_policies_with_a_ratio_of_their_own_are_measured_only(
    policy: ReusePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0, balanced=0.0)
    for report in asked(engine, *(f"{number}?" for number in range(4)), reuse=policy):
        assert report.canary is not None
        assert (report.canary.status, report.canary.bound, report.canary.broken) == ("measured", None, None)
        assert report.served_level == report.level
    assert [(each.checked, each.broken) for each in engine.canary.tallies()] == [(4, 0)]


def test_another_method_has_a_promise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0)
    trial = ReusePolicy(level="fast", matching="runs", canary=1.0)
    with pytest.warns(QualityWarning, match=r"'fast' with matching='runs' promises .* served at 'balanced'"):
        asked(engine, "0?", "1?", reuse=trial)
    planted(monkeypatch, fast=100.0)
    (again,) = asked(engine, "2?", reuse=trial)
    (other,) = asked(engine, "3?")
    assert (again.served_level, other.served_level) == ("balanced", "fast")
    assert engine.canary.served_level("fast") == "fast"
    assert [(each.method, each.served_level, each.checked, each.broken) for each in engine.canary.tallies()] == [
        ("matching='runs'", "fast", 2, 2),
        ("matching='runs'", "balanced", 1, 0),
        ("", "fast", 1, 0),
    ]


def test_lossless_calls_keep_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is about all calls: two broken calls of two are too many, of ten they are not."""
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0)
    lossless = [engine.generate(f"Nothing of it is known, {number}.", max_new_tokens=4).report for number in range(8)]
    broken = asked(engine, "0?", "1?")
    assert {each.outcome for each in lossless} <= {"miss", "prefix"}
    assert [each.canary is not None for each in lossless] == [False] * 8
    assert [each.canary is not None and each.canary.broken for each in broken] == [True] * 2
    [tally] = engine.canary.tallies()
    kls = [each.kl or 0 for each in engine.canary.results()]
    assert (tally.checked, tally.broken, tally.mean_kl) == (10, 2, pytest.approx(sum(kls) / 10))
    assert len(kls) == 2
    assert engine.canary.served_level("fast") == "fast"
    assert engine.canary.counts() == CanaryCounts(unneeded=1 + 8, measured=2), "the warming call is lossless, too"


def test_lossless_calls_that_promise_nothing_are_no_evidence() -> None:
    engine = engine_of(level="fast")
    engine.pool.clear()
    for reuse in ("off", "exact", ReusePolicy(level="fast", recompute_ratio=0.3, canary=1.0)):
        engine.generate("Nothing of it is known.", max_new_tokens=4, reuse=reuse, store=False)
    assert engine.canary.counts().unneeded == 1 + 3
    assert engine.canary.tallies() == []


def test_a_busy_engine_counts_no_lossless_calls_in_the_place_of_those_it_drops() -> None:
    engine = engine_of(level="fast")

    def ask_lossless() -> None:
        engine.generate("Nothing of it is known.", max_new_tokens=4, store=False)

    with busy(engine):
        ask_lossless()
        while engine.canary.counts().pending < 3:  # one that runs, two that wait
            engine.generate(reordered("Why?"), max_new_tokens=4, store=False)
        ask_lossless()
    assert engine.canary.wait()
    assert engine.canary.counts().unneeded == 1 + 2
    assert [each.checked for each in engine.canary.tallies()] == [1 + 3]


def test_calls_with_a_ratio_of_their_own_are_no_evidence_for_their_level() -> None:
    engine = engine_of(level="fast")
    asked(engine, "0?")
    asked(engine, "1?", reuse=ReusePolicy(level="fast", recompute_ratio=0.9, canary=1.0))
    assert [(each.level, each.bound, each.checked) for each in engine.canary.tallies()] == [
        ("fast", 100.0, 1),
        ("fast", None, 1),
    ]


def test_a_method_is_what_differs_from_the_calibrated_one() -> None:
    assert method_of(ReusePolicy(level="fast", recompute_ratio=0.3, canary=0.5, seed=3)) == ""
    assert method_of(ReusePolicy(level="high", matching="runs", halo=0)) == "matching='runs', halo=0"
