"""Charts of reports (matplotlib): the tokens' sources, the calls' times, and the times to the first token."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from semshare_core import ReuseReport
from semshare_core.errors import MissingDependencyError
from semshare_core.report import colours
from semshare_core.report.token_strip import SOURCES
from semshare_integrations.statistics.prefill_cost import PrefillCost

try:
    from matplotlib.artist import Artist
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "matplotlib":
        raise
    raise MissingDependencyError(
        "matplotlib is not installed, which charts need. Install it in SemShare's clone: pip install '.[charts]'."
    ) from error

_WIDTH = 8.0  # inches
_PER_LINE = 200


def heat_map(report: ReuseReport) -> Figure:
    """Each prompt token in the colour of its source, 200 in a line; below it, whether it was recomputed."""
    n = report.prompt_tokens
    wide = min(n, _PER_LINE)
    lines = -(-n // wide)
    grid = np.full((2 * lines, wide), np.nan)
    for line in range(lines):
        part = slice(line * wide, min((line + 1) * wide, n))
        sources = np.asarray(report.token_sources[part], float)
        grid[2 * line, : len(sources)] = sources
        computed = np.asarray(report.token_recomputed[part], bool)
        grid[2 * line + 1, : len(computed)] = np.where(computed, len(SOURCES), np.nan)
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.16 * lines), layout="constrained")
    axes = figure.add_subplot()
    shades = ListedColormap([*(colour for _, _, colour in SOURCES), colours.COMPUTED])
    axes.imshow(grid, aspect="auto", interpolation="nearest", cmap=shades, vmin=0, vmax=len(SOURCES))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yticks(range(0, 2 * lines, 2 * max(1, lines // 10)))
    axes.set_yticklabels([str(line // 2 * wide) for line in axes.get_yticks()])
    axes.set(xlabel="token of the line", ylabel="first token")
    axes.set_title(f"{report.outcome}: {n} prompt tokens, {report.recomputed_tokens} recomputed", fontsize=10)
    patches = [Patch(color=colour, label=name) for name, _, colour in SOURCES]
    _legend(figure, [*patches, Patch(color=colours.COMPUTED, label="recomputed")])
    return figure


def timeline(reports: Sequence[ReuseReport]) -> Figure:
    """When each call arrived, and how it spent its time."""
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.2 * min(max(len(reports), 3), 30)), layout="constrained")
    axes = figure.add_subplot()
    begin = min((report.arrived_at for report in reports), default=0.0)
    for number, report in enumerate(reports, start=1):
        steps = (report.lookup_ms, report.match_ms, report.prefill_ms)
        spent = (max(0.0, report.ttft_ms - sum(steps)), *steps, report.decode_ms)
        left = report.arrived_at - begin
        for colour, milliseconds in zip(colours.STEPS.values(), spent, strict=True):
            axes.barh(number, milliseconds / 1e3, left=left, color=colour, height=0.8)
            left += milliseconds / 1e3
    axes.set_ylim(max(len(reports), 3) + 0.6, 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="seconds since the first call arrived", ylabel="call")
    axes.set_title("What each call's time was spent on", fontsize=10)
    _legend(figure, [Patch(color=colour, label=name) for name, colour in colours.STEPS.items()])
    return figure


def ttft(reports: Sequence[ReuseReport]) -> Figure:
    """Each call's time to the first token, and an estimate of its full prefill's."""
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    axes = figure.add_subplot()
    numbers = range(1, len(reports) + 1)
    outcomes = [report.outcome for report in reports]
    axes.bar(numbers, [report.ttft_ms for report in reports], color=[colours.OUTCOMES[outcome] for outcome in outcomes])
    seen = [outcome for outcome in colours.OUTCOMES if outcome in outcomes]
    handles: list[Artist] = [Patch(color=colours.OUTCOMES[outcome], label=outcome) for outcome in seen]
    cost = PrefillCost.fit(reports)
    if cost is not None:
        estimates = [cost.milliseconds(report.prompt_tokens) for report in reports]
        handles += axes.plot(numbers, estimates, "_", markersize=14, color="black", label="full prefill (estimate)")
    axes.set_xlim(0.4, max(len(reports), 8) + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="call", ylabel="TTFT (ms)")
    axes.set_title("Time to the first token, by outcome", fontsize=10)
    _legend(figure, handles)
    return figure


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)


def svg(figure: Figure) -> str:
    """The figure as inline SVG, no wider than the page."""
    written = io.StringIO()
    figure.savefig(written, format="svg")
    text = written.getvalue()
    return text[text.index("<svg") :].replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)
