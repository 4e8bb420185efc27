"""Totals over a run, the time that reuse saved, and how reports look in notebooks."""

from __future__ import annotations

import re
import threading
import time
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from semshare_core import ReuseReport, SemShareEngine
from semshare_core.errors import ConfigError
from semshare_core.report import colours
from semshare_core.report.token_strip import SOURCES, strip
from semshare_integrations.statistics import PrefillCost, ReuseLog, ReuseTotals
from tiny_canary import busy
from tiny_healing import ask, healing_engine


def full(n: int, milliseconds: float, **more: Any) -> ReuseReport:
    told = {"outcome": "miss", "level": "exact", "new_tokens": n, "recomputed_tokens": n, **more}
    return ReuseReport(prompt_tokens=n, prefill_ms=milliseconds, ttft_ms=milliseconds, **told)


def hit(n: int, milliseconds: float, **more: Any) -> ReuseReport:
    told = {
        "outcome": "prefix",
        "level": "exact",
        "prefix_tokens": n - 1,
        "new_tokens": 1,
        "recomputed_tokens": 1,
        **more,
    }
    return ReuseReport(prompt_tokens=n, prefill_ms=milliseconds, ttft_ms=milliseconds, **{**told, **more})


# What a full prefill costs


@given(st.floats(0.01, 10), st.floats(1e-6, 1e-2), st.lists(st.integers(2, 8000), min_size=2, max_size=9, unique=True))
def test_the_cost_of_full_prefills_is_found(per_token: float, per_square: float, lengths: list[int]) -> None:
    reports = [full(n, per_token * n + per_square * n**2) for n in lengths]
    cost = PrefillCost.fit([*reports, hit(9000, 1.0)])
    assert cost is not None
    for n in lengths:
        assert cost.milliseconds(n) == pytest.approx(per_token * n + per_square * n**2, rel=1e-3)


def test_one_length_tells_nothing_of_the_square() -> None:
    cost = PrefillCost.fit([full(100, 50.0), full(100, 50.0)])
    assert cost == PrefillCost(pytest.approx(0.5), 0.0)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0.1, 1e5)), min_size=1, max_size=12))
def test_a_cost_is_never_negative(measured: list[tuple[int, float]]) -> None:
    cost = PrefillCost.fit([full(n, milliseconds) for n, milliseconds in measured])
    assert cost is not None
    assert cost.per_token >= 0
    assert cost.per_square >= 0
    assert cost.milliseconds(1000) > 0


def test_without_a_full_prefill_nothing_is_estimated() -> None:
    assert PrefillCost.fit([]) is None
    assert PrefillCost.fit([hit(100, 3.0)]) is None
    assert ReuseTotals.of([hit(100, 3.0)]).prefill_seconds_saved_estimate is None


def test_time_saved_counts_what_looking_cost() -> None:
    reports = [full(1000, 2000.0, lookup_ms=10.0, match_ms=5.0), hit(1000, 100.0, lookup_ms=20.0)]
    saved = ReuseTotals.of(reports).prefill_seconds_saved_estimate
    assert saved == pytest.approx((2000 - 100 - 20 - 15) / 1e3)
    slower = ReuseTotals.of([full(1000, 100.0), hit(1000, 300.0)]).prefill_seconds_saved_estimate
    assert slower == pytest.approx(-0.2)


# Totals


def test_rates_by_outcome() -> None:
    reports = [full(10, 1.0), hit(10, 1.0), hit(10, 1.0, outcome="semantic"), full(10, 1.0, outcome="bypass")]
    totals = ReuseTotals.of(reports)
    assert totals.hit_rate == 0.5
    assert totals.rates == {"miss": 0.25, "prefix": 0.25, "semantic": 0.25, "bypass": 0.25}
    assert ReuseTotals.of([]).hit_rate is None
    assert ReuseTotals.of([]).rates == {}


def test_a_short_prefix_of_a_long_prompt_is_a_hit_that_served_little() -> None:
    little = ReuseReport(
        outcome="prefix", level="exact", prompt_tokens=1600, prefix_tokens=16, new_tokens=1584, recomputed_tokens=1584
    )
    totals = ReuseTotals.of([little])
    assert totals.hit_rate == 1.0
    assert totals.share_served == pytest.approx(0.01)
    assert "hit rate 100%, rows served 1%" in totals.summary()
    assert ReuseTotals.of([]).share_served is None


def test_a_log_loses_no_report_of_many_threads() -> None:
    log = ReuseLog()
    threads = [threading.Thread(target=lambda: [log.add(hit(5, 1.0)) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.totals().calls == 1600


def test_a_report_says_when_its_prompt_arrived(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    engine = SemShareEngine(model, tokenizer)
    before = time.time()
    report = engine.generate("When?", max_new_tokens=1).report
    assert before - 1 < report.arrived_at < time.time() + 1


# In notebooks


def test_the_strip_shows_every_token() -> None:
    sources, computed = [3] * 300 + [2] * 50 + [1] * 10 + [0] * 7, [0] * 340 + [1] * 27
    root = ElementTree.fromstring(strip(sources, computed).partition("<div>")[0])
    pieces = [each for each in root.iter("rect") if len(each)]
    assert sum(int(each.get("width", "")) for each in pieces) == len(sources)
    marks = [each for each in root.iter("rect") if not len(each)]
    assert sum(int(each.get("width", "")) for each in marks) == 27
    assert root.get("aria-label") == "tokens by source: 7 new, 10 fuzzy, 50 moved, 300 prefix"
    assert strip([], []) == ""


def test_the_strip_of_a_long_prompt_stays_small() -> None:
    sources = ([2] * 180 + [0] * 20) * 40
    assert len(strip(sources, [int(source == 0) for source in sources])) < 100_000


def test_the_strip_fits_a_narrow_page_and_a_dark_one() -> None:
    drawn = strip([3] * 300, [1] * 300)
    assert 'style="max-width:100%"' in drawn
    assert set(re.findall(r'fill="(.*?)"', drawn)) == {colours.BLUE, "currentColor"}
    _, _, legend = drawn.partition("<div>")
    assert re.findall(r"color:(#\w+)", legend) == [colour for _, _, colour in SOURCES]


def test_a_log_scrolls_its_table_within_itself() -> None:
    log = ReuseLog()
    log.add(full(3, 1.0))
    page = log._repr_html_()
    assert '<div style="overflow-x:auto"><table>' in page
    assert page.count('<svg style="max-width:100%;height:auto"') == page.count("<svg") == 2


def test_a_report_and_a_log_render(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    engine = SemShareEngine(model, tokenizer)
    log = ReuseLog()
    assert "no calls" in log._repr_html_()
    for _ in range(2):
        log.add(engine.generate("The river ran past the old mill.", max_new_tokens=2).report)
    page = log.reports[1]._repr_html_()
    assert "<svg" in page
    assert "31 prefix" in page
    page = log._repr_html_()
    assert page.count("<tr>") == 3
    assert page.count("<svg") == 2
    assert "hit rate 50%" in page
    log.add(full(3, 1.0, reason="<b>"))
    assert "<b>" not in log._repr_html_()
    assert "&lt;b&gt;" in log.reports[-1]._repr_html_()


def test_what_a_message_carries_is_no_report_and_nothing_is_kept_of_it() -> None:
    log = ReuseLog()
    with pytest.raises(ConfigError, match=r"got dict\. ReuseReport\.model_validate"):
        log.add(full(3, 1.0), full(3, 1.0).brief())  # type: ignore[arg-type]
    assert log.reports == []
    log.add(ReuseReport.model_validate(full(3, 1.0).brief()))
    assert log.totals().calls == 1


def test_calls_whose_rows_were_healed_are_counted_in_copies_of_their_reports_too() -> None:
    engine = healing_engine()
    log, copies = ReuseLog(), ReuseLog()
    with busy(engine):
        report = ask(engine)
        log.add(report)
        copies.add(ReuseReport.model_validate(report.brief()), hit(5, 1.0))
        assert (log.totals().healed_calls, copies.totals().healed_tokens) == (0, 0)
        assert "healed" not in copies.summary()
    assert engine.healing.wait(60)
    assert log.totals().healed_tokens == report.healed_tokens > 0
    assert copies.totals().healed_calls == 1
    assert f"healed: {report.healed_tokens} rows of 1 call" in copies.totals().summary()
