"""Selective against full prefill on the demo model: quality and speed in one run, side by side.

``python -m benchmarks.prefill [section ...]`` prints every promise and what was measured; ``out/prefill.json`` has all.
All sections together take about 40 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.sections.approximate import codes, methods, paraphrase, shuffled
from benchmarks.sections.figure import Figure, Section
from benchmarks.sections.lossless import miss, multi_turn, shared_prefix
from benchmarks.sections.matching import matching
from semshare_core import PoolConfig, SemShareEngine

SECTIONS: dict[str, tuple[Section, int]] = {
    "exact": (multi_turn, 50),
    "prefix": (shared_prefix, 3),
    "miss": (miss, 5),
    "matching": (matching, 5),
    "shuffled": (shuffled, 3),
    "paraphrase": (paraphrase, 20),
    "codes": (codes, 100),
    "methods": (methods, 8),
}
OUT = Path("out/prefill.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--count", type=int, help="items per section, instead of each section's own number")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section: {', '.join(sorted(unknown))}; choose of {', '.join(SECTIONS)}")
    if options.count is not None and options.count < 1:
        parser.error("--count must be at least 1")
    torch.set_num_threads(options.threads)
    console = Console()
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=PoolConfig(max_bytes=4 * 2**30))
    results: dict[str, list[Figure]] = {}
    for name in options.sections or SECTIONS:
        section, count = SECTIONS[name]
        console.rule(name)
        results[name] = list(section(engine, options.count or count, console.log))
        console.print(table(name, results[name]))
        write(results, options.threads)
    console.rule("all")
    console.print(table("benchmarks.prefill", [figure for figures in results.values() for figure in figures]))
    console.print(f"Every item: {OUT}")


def table(title: str, figures: Iterable[Figure]) -> Table:
    """Figures beside their targets."""
    made = Table("figure", "measured", "target", "met", title=title)
    for figure in figures:
        made.add_row(figure.name, figure.measured, figure.target, {None: "", True: "yes", False: "NO"}[figure.met])
    return made


def write(results: dict[str, list[Figure]], threads: int) -> None:
    """What was measured so far, with the versions that it was measured with."""
    OUT.parent.mkdir(exist_ok=True)
    document = {
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "threads": threads},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "sections": {name: [vars(figure) for figure in figures] for name, figures in results.items()},
    }
    with tempfile.NamedTemporaryFile("w", dir=OUT.parent, suffix=".json", delete=False, encoding="utf-8") as part:
        json.dump(document, part, indent=1)
    os.replace(part.name, OUT)


if __name__ == "__main__":
    main()
