"""Write docs/agents-table.md and its plot from what `python -m benchmarks.agents` measured.

Several files are parts of one measurement, for example of two processes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from benchmarks.agents.figures import by_edit, must_hold, part_of
from benchmarks.agents.item import AgentItem, TurnItem, agent_item
from benchmarks.agents.tables import (
    MODES,
    edits_table,
    promises_table,
    quality_table,
    turn_items,
    turns_table,
)
from benchmarks.agents.turns import PART
from benchmarks.bench.record import Record, read_items
from benchmarks.report.drawing import new_figure, save
from benchmarks.report.tables import figures_table

NAME = "agents-table.md"
PLOT = "plots/agents-turns.svg"
_HEAD = "<!-- Written by python -m benchmarks.agents.page. Edits are lost. -->"
_COLOURS = dict(zip(MODES, ("#c8553d", "#999999", "#0b6e4f", "#3d6fb6"), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agents.page", description=__doc__)
    own = Path("out/agents.json")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", default=[own], help=f"default: {own}")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    options = parser.parse_args()
    records = []
    for path in options.files:
        try:
            records.append(read_items(path, agent_item))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path} is not what benchmarks.agents writes: {error}", file=sys.stderr)
            return 2
    write_page(merged(records), options.docs)
    print(options.docs / NAME)
    return 0


def merged(records: list[Record[AgentItem]]) -> Record[AgentItem]:
    """All parts, notes and items. The machine and the settings are those of the first file."""
    first = records[0]
    commands = "` and `".join(str(record.about.get("command", "")) for record in records)
    return replace(
        first,
        about={**first.about, "command": commands},
        parts=[part for record in records for part in record.parts],
        notes=[note for record in records for note in record.notes],
        items=[item for record in records for item in record.items],
    )


def write_page(record: Record[AgentItem], docs: Path) -> None:
    """The tables and, where whole chains were measured, the plot."""
    docs.mkdir(parents=True, exist_ok=True)
    figure = speeds(turn_items(record.items))
    if figure is not None:
        save(figure, docs / PLOT)
    (docs / NAME).write_text(page(record, plot=figure is not None), encoding="utf-8")


def page(record: Record[AgentItem], *, plot: bool) -> str:
    """The tables as Markdown, to be included in a page; no heading above the fourth level."""
    items = turn_items(record.items)
    parts = [_HEAD, _measured_on(record)]
    if any(item.part == PART for item in items):
        parts += ["#### Every edit, from the third turn on", edits_table(items)]
        parts += [f"![Speed of every turn, by edit]({PLOT})"] if plot else []
        parts += ["#### Speed of every turn", turns_table(items, lambda item: f"{item.speed:.1f}×")]
        parts += ["#### KL of every turn", turns_table(items, lambda item: f"{item.promised_kl:.4f}")]
    if part_of(items, "promises"):
        parts += ["#### Calls beyond their bound, on short chains", promises_table(items)]
        parts += ["#### Answers on short chains", quality_table(items)]
    figures = must_hold(record.items)
    parts += ["#### What must hold", figures_table(figures)] if figures else []
    parts += ["Left out: " + "; ".join(record.notes) + "."] if record.notes else []
    return "\n\n".join(parts) + "\n"


def speeds(items: list[TurnItem]) -> Figure | None:
    """Speed by turn, a panel an edit; None where no chain has two turns."""
    groups = {edit: group for edit, group in by_edit(part_of(items, PART)).items() if len(group) > 1}
    if not groups:
        return None
    figure, axes = new_figure(max(4.0, 1.7 * len(groups)), 3.2, len(groups))
    for panel, (edit, group) in zip(axes, groups.items(), strict=True):
        for mode, colour in _COLOURS.items():
            line = sorted((item.turn, item.speed) for item in group if item.mode == mode)
            if line:
                panel.plot(*zip(*line, strict=True), "o-", color=colour, markersize=3, linewidth=1, label=mode)
        panel.set_title(edit, fontsize=9)
        panel.set_yscale("log")
        panel.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        panel.set_xlabel("turn", fontsize=8)
    labels: dict[str, Artist] = {}
    for panel in axes:
        handles, names = panel.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _measured_on(record: Record[AgentItem]) -> str:
    machine, settings = record.about.get("machine", {}), record.about.get("settings", {})
    minutes = sum(part["seconds"] for part in record.parts) / 60
    return (
        f"`{record.about.get('command', '')}`: {minutes:.0f} minutes, {settings.get('threads', '?')} thread(s) of "
        f"{machine.get('cores', '?')} cores, demo model in float32. Speeds stand beside a full prefill of the same run."
    )


if __name__ == "__main__":
    sys.exit(main())
