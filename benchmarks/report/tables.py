"""Items as Markdown tables; columns without a single number are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.bench.figures import is_peer
from benchmarks.bench.item import Item
from benchmarks.bench.metrics import (
    ACCURACY,
    AGREEMENT,
    KEPT,
    KEPT_CLEAR,
    KL,
    KL_P95,
    KV_SHARE,
    PEAK,
    RATIO,
    ROUGE_L,
    SPEED,
    STALE,
    Metric,
    above,
    approximate,
    grouped,
)
from benchmarks.sections.figure import Figure
from semshare_core.budget.levels import BOUNDS

NOTHING = "–"
COLUMNS = (SPEED, KL, KL_P95, AGREEMENT, ROUGE_L, ACCURACY, KEPT, KEPT_CLEAR, STALE, RATIO, KV_SHARE, PEAK)
_WITH_INTERVAL = (SPEED, KL, AGREEMENT, ROUGE_L, KEPT, KEPT_CLEAR)
SWEEP_COLUMNS = (SPEED, KL, AGREEMENT, ROUGE_L, RATIO, KV_SHARE)
PEER_COLUMNS = (SPEED, KL, AGREEMENT, ROUGE_L, KEPT, KV_SHARE, PEAK)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns of which no row says anything are left out."""
    told = [place for place in range(len(head)) if any(row[place] not in (NOTHING, "") for row in rows)]
    lines = [[head[place] for place in told], ["---"] * len(told), *([row[place] for place in told] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def figures_table(figures: Sequence[Figure]) -> str:
    """Targets beside what was measured; open where that does not decide."""
    met = {None: "open", True: "yes", False: "**no**"}
    rows = [
        [figure.name, figure.target, figure.measured, met[figure.met] if figure.target else ""] for figure in figures
    ]
    return markdown(["what", "target", "measured", "met?"], rows)


def systems_table(groups: Mapping[str, Sequence[Item]]) -> str:
    """A row a system, all on the same prompts, with 95 % intervals where they matter most."""
    rows = [
        [name, _outcomes(group), *(column.told(group, column in _WITH_INTERVAL) for column in COLUMNS)]
        for name, group in groups.items()
    ]
    return markdown(["system", "served as", *(_heading(column) for column in COLUMNS)], rows)


def sweep_table(items: Sequence[Item], heading: str) -> str:
    """A row for each setting and system, in the order of the settings' words and numbers."""
    by_setting = grouped(items, lambda item: item.setting)
    rows = [
        [setting, name, _outcomes(group), str(len(group)), *(column.told(group) for column in SWEEP_COLUMNS)]
        for setting, several in sorted(by_setting.items(), key=lambda entry: _setting_key(entry[0]))
        for name, group in grouped(several, lambda item: item.system).items()
    ]
    return markdown([heading, "system", "served as", "prompts", *(_heading(column) for column in SWEEP_COLUMNS)], rows)


def peers_table(groups: Mapping[str, Sequence[Item]]) -> str:
    """A row a system, all on the same prompts; the best of a column is in bold where it is a peer's."""
    best = {column.name: _winning_peers(column, groups) for column in PEER_COLUMNS}
    rows = []
    for name, group in groups.items():
        cells = []
        for column in PEER_COLUMNS:
            told = column.told(group, interval=False)
            cells.append(f"**{told}**" if name in best[column.name] else told)
        rows.append([name, str(len(group)), *cells])
    return markdown(["system", "prompts", *(_heading(column) for column in PEER_COLUMNS)], rows)


def levels_table(items: Sequence[Item]) -> str:
    """How often each level exceeds its bound, by workload: of all calls, and of those that reuse approximately."""
    rows = []
    for workload, several in grouped((item for item in items if item.kl), lambda item: item.workload).items():
        groups = grouped(several, lambda item: item.system)
        by_level = {level: groups.get(f"ours {level}", []) for level in BOUNDS}
        cells = [
            told for level, group in by_level.items() for told in (above(level).told(group), _beyond(level, group))
        ]
        count = max(len(group) for group in by_level.values())
        if count:
            rows.append([workload, str(count), *cells])
    heads = [(f"{level}: above {bound.kl}", f"{level}: of those reused") for level, bound in BOUNDS.items()]
    return markdown(["workload", "prompts", *(head for pair in heads for head in pair)], rows)


def _beyond(level: str, group: Sequence[Item]) -> str:
    """As in "2 of 14", of the calls that reuse approximately."""
    beyond = above(level).values(approximate(group))
    return f"{sum(beyond):.0f} of {len(beyond)}" if beyond else NOTHING


def _setting_key(setting: str) -> tuple[str, float]:
    """Of "0.1 removed" or "5000"."""
    number, _, word = setting.partition(" ")
    return word, float(number)


def _winning_peers(column: Metric, groups: Mapping[str, Sequence[Item]]) -> set[str]:
    """The peers that are best by what the table shows; nobody where one of ours is as good."""
    if column.higher_is_better is None:
        return set()
    found = {
        name: round(made.value, column.digits) for name, group in groups.items() if (made := column.estimate(group))
    }
    best = max(found.values(), default=0.0) if column.higher_is_better else min(found.values(), default=0.0)
    winners = {name for name, value in found.items() if value == best}
    return set() if any(name.startswith("ours") for name in winners) else {name for name in winners if is_peer(name)}


def _outcomes(group: Sequence[Item]) -> str:
    """As in the reports; several are told with their counts."""
    counts = {outcome: len(several) for outcome, several in grouped(group, lambda item: item.outcome).items()}
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def _heading(column: Metric) -> str:
    arrow = {None: "", True: " ↑", False: " ↓"}[column.higher_is_better]
    return column.name + arrow
