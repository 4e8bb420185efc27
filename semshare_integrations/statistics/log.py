"""A log of reports, with totals, a table and charts."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from semshare_core import Canary, ReuseReport
from semshare_core.errors import ConfigError, MissingDependencyError
from semshare_core.process import forking
from semshare_core.quality.canary_registry import REGISTRY
from semshare_core.quality.late_results import HEALED
from semshare_integrations.statistics.totals import ReuseTotals

_COLUMNS = ("call", "outcome", "prompt", "prefix", "moved", "fuzzy", "new", "ratio", "TTFT ms", "KL")


class ReuseLog:
    """Reports of calls, in the order in which the answers were completed. Thread-safe.

    When the canary has checked a call, or its stored rows have been healed, the call's report here gets the result.

    >>> log.reports[-1].outcome, log.totals().hit_rate
    >>> print(log.summary())
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = forking.whole(threading.Lock())
        self._reports: list[ReuseReport] = []

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            return {**self.__dict__, "_lock": None, "_reports": list(self._reports)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=forking.whole(threading.Lock()))

    @property
    def reports(self) -> list[ReuseReport]:
        """One report for each answered prompt."""
        with self._lock:
            return list(self._reports)

    def add(self, *reports: ReuseReport) -> None:
        """Add reports.

        Raises:
            ConfigError: an object is not a report. No report is added then.
        """
        if strange := [report for report in reports if not isinstance(report, ReuseReport)]:
            raise ConfigError(
                f"add() takes ReuseReport objects; got {type(strange[0]).__name__}. ReuseReport.model_validate(...) "
                "makes a report from a message's metadata."
            )
        with self._lock:
            self._reports.extend(reports)
        for report in reports:
            if report.canary is not None:
                REGISTRY.when_done(report.canary, partial(self._checked, report))
            HEALED.when_done(report.id, partial(_healed, report))

    def on_canary(self, report: ReuseReport) -> None:
        """A hook for subclasses: called in a background thread when ``report.canary`` is finished."""

    def _checked(self, report: ReuseReport, canary: Canary) -> None:
        report.canary = canary
        self.on_canary(report)

    def clear(self) -> None:
        """Forget all reports."""
        with self._lock:
            self._reports.clear()

    def totals(self) -> ReuseTotals:
        """The totals of all reports."""
        return ReuseTotals.of(self.reports)

    def summary(self) -> str:
        """The totals in words, a table with a line for each call, and why each was served so."""
        reports = self.reports
        head = ReuseTotals.of(reports).summary()
        whys = (f"{number}: {why}" for number, report in enumerate(reports, start=1) if (why := _why(report)))
        return "\n".join((head, *_aligned(_table(reports)), *whys)) if reports else head

    def _repr_html_(self) -> str:
        """For notebooks: totals, table, and, with matplotlib, charts."""
        reports = self.reports
        head = f"<p>{html.escape(ReuseTotals.of(reports).summary())}</p>"
        if not reports:
            return head
        columns, *cells = _table(reports)
        rows = "".join(_row("td", (*line, _why(report))) for line, report in zip(cells, reports, strict=True))
        table = f"<table><thead>{_row('th', (*columns, 'why'))}</thead><tbody>{rows}</tbody></table>"
        return f'{head}<div style="overflow-x:auto">{table}</div>{_charts(reports)}'


def _healed(report: ReuseReport, tokens: int) -> None:
    report.healed_tokens = tokens


def _charts(reports: Sequence[ReuseReport]) -> str:
    try:
        from semshare_integrations.statistics import charts
    except MissingDependencyError as error:
        return f"<p>{html.escape(str(error))}</p>"
    return "".join(charts.svg(draw(reports)) for draw in (charts.timeline, charts.ttft))


def _table(reports: Sequence[ReuseReport]) -> list[tuple[str, ...]]:
    """The names of the columns, and a line for each call. The last column appears only if a call was checked."""
    rows = [_COLUMNS, *_cells(reports)]
    return rows if any(report.canary is not None for report in reports) else [row[:-1] for row in rows]


def _cells(reports: Iterable[ReuseReport]) -> list[tuple[str, ...]]:
    return [
        (
            str(number),
            report.outcome,
            str(report.prompt_tokens),
            str(report.prefix_tokens),
            str(report.moved_tokens),
            str(report.fuzzy_tokens),
            str(report.new_tokens),
            f"{report.recompute_ratio:.2f}",
            f"{report.ttft_ms:.0f}",
            _divergence(report.canary),
        )
        for number, report in enumerate(reports, start=1)
    ]


def _why(report: ReuseReport) -> str:
    """The reason and the first difference's place and kind. Quotes no prompt."""
    difference = report.first_difference
    said = [report.reason] if report.reason else []
    return "; ".join([*said, f"first difference at {difference.summary()}"] if difference else said)


def _divergence(canary: Canary | None) -> str:
    if canary is None:
        return ""
    return canary.status if canary.kl is None else f"{canary.kl:.3f}{'!' if canary.broken else ''}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _row(kind: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"
