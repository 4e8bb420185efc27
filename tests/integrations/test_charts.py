"""The pictures of reports: what they show is what the reports say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex

from semshare_core import ReuseReport
from semshare_core.report import colours
from semshare_core.report.token_strip import SOURCES
from semshare_integrations.statistics import charts


def report(number: int, n: int = 300, outcome: str = "miss") -> ReuseReport:
    hit = outcome in ("prefix", "semantic")
    return ReuseReport(
        arrived_at=1000.0 + number,
        outcome=outcome,  # type: ignore[arg-type]
        level="balanced",
        prompt_tokens=n,
        new_tokens=10 if hit else n,
        moved_tokens=n - 10 if hit else 0,
        recomputed_tokens=20 if hit else n,
        lookup_ms=1.0,
        match_ms=2.0,
        prefill_ms=50.0 if hit else 2.0 * n,
        ttft_ms=63.0 if hit else 2.0 * n + 3,
        decode_ms=100.0,
        token_sources=[2] * (n - 10) + [0] * 10 if hit else [0] * n,
        token_recomputed=[0] * (n - 20) + [1] * 20 if hit else [1] * n,
    )


@pytest.mark.parametrize("n", [21, 200, 201, 6000])
def test_the_heat_map_shows_every_token(n: int) -> None:
    figure = charts.heat_map(report(0, n, "semantic"))
    grid = figure.axes[0].get_images()[0].get_array()
    shown = np.ma.filled(grid, np.nan)[::2].ravel()
    assert shown[:n].tolist() == [2.0] * (n - 10) + [0.0] * 10
    assert np.isnan(shown[n:]).all()
    marks = np.ma.filled(grid, np.nan)[1::2]
    assert int((marks == len(SOURCES)).sum()) == 20


def test_the_timeline_puts_calls_where_they_were() -> None:
    figure = charts.timeline([report(0), report(2, outcome="prefix")])
    bars = figure.axes[0].patches
    assert len(bars) == 10, "five steps a call"
    second = bars[5:]
    assert second[0].get_x() == pytest.approx(2.0)
    assert [bar.get_width() for bar in second] == pytest.approx([0.010, 0.001, 0.002, 0.050, 0.100])
    assert second[-1].get_x() == pytest.approx(2.063)


def test_the_ttft_chart_has_the_estimate_beside() -> None:
    figure = charts.ttft([report(0, 100), report(1, 200), report(2, 200, "prefix")])
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([203.0, 403.0, 63.0])
    outcomes = [colours.OUTCOMES[outcome] for outcome in ("miss", "miss", "prefix")]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == outcomes
    assert axes.lines[0].get_ydata() == pytest.approx([200.0, 400.0, 400.0])
    assert not charts.ttft([report(0, outcome="prefix")]).axes[0].lines, "no full prefill to estimate from"


def test_pictures_become_svg() -> None:
    assert charts.svg(charts.timeline([report(0)])).startswith("<svg")


def test_without_matplotlib_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from semshare_integrations.statistics import ReuseLog\n"
        "from semshare_core import ReuseReport\n"
        "log = ReuseLog(); log.add(ReuseReport(outcome='miss', level='exact', prompt_tokens=1))\n"
        "print(log._repr_html_())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ".[charts]" in done.stdout
    assert "<table>" in done.stdout
