"""Write the run's part of docs/benchmarks.md, and docs/plots/, from what `python -m benchmarks.bench` measured."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.bench.item import Item
from benchmarks.bench.record import Record, read_record
from benchmarks.bench.workloads import ABOUT
from benchmarks.report.drawing import save
from benchmarks.report.page import SWEEPS, page, with_new_part
from benchmarks.report.plots import frontier, kept_answers, lengths, levels, peers, retention, similarity

PLOTS = "plots"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=Path("out/bench.json"), help="default: out/bench.json")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the page (default: docs)")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the plots (default: svg)")
    options = parser.parse_args()
    try:
        record = read_record(options.file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{options.file} is not what benchmarks.bench writes: {error}", file=sys.stderr)
        return 2
    try:
        write_report(record, options.docs, options.format)
    except ValueError as error:
        print(f"{options.docs / 'benchmarks.md'} stays as it was: {error}", file=sys.stderr)
        return 2
    print(f"{options.docs / 'benchmarks.md'}, plots in {options.docs / PLOTS}")
    return 0


def write_report(record: Record[Item], docs: Path, suffix: str = "svg") -> None:
    """The run's part of the page and its plots; plots of an earlier run that this one has nothing for are removed.

    What stands around the part is left as it is. A page without marks raises `ValueError`, and nothing is written.
    """
    path, folder = docs / "benchmarks.md", docs / PLOTS
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    with_new_part(whole, "")
    for old in folder.glob(f"bench-*.{suffix}"):
        old.unlink()
    titles = {}
    for name, title, figure in _plots(record):
        save(figure, folder / f"{name}.{suffix}")
        titles[name] = title
    docs.mkdir(parents=True, exist_ok=True)
    path.write_text(with_new_part(whole, page(record, titles)), encoding="utf-8")


def _plots(record: Record[Item]) -> Iterator[tuple[str, str, Figure]]:
    items = record.items
    made: list[tuple[str, str, Figure | None]] = [
        ("lengths", "Speed against prompt length", lengths(items)),
        ("levels", "Divergence of every prompt under each level, beside the bound", levels(items)),
        ("similarity", "Speed against similarity", similarity(items)),
        ("retention", "Quality against KV bytes", retention(items)),
    ]
    for workload in dict.fromkeys(item.workload for item in items):
        about, name = ABOUT.get(workload, "your own prompts"), workload.replace(" ", "-")
        if workload in SWEEPS:
            continue
        made.append((f"kept-{name}", f"Kept answers by ratio: {workload}", kept_answers(items, workload, about)))
        made.append((f"frontier-{name}", f"Speed against quality: {workload}", frontier(items, workload, about)))
        made.append((f"peers-{name}", f"Ours and other projects: {workload}", peers(items, workload, about)))
    yield from ((f"bench-{name}", title, figure) for name, title, figure in made if figure is not None)


if __name__ == "__main__":
    sys.exit(main())
