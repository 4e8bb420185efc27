"""Agents turn after turn on the demo model in float32: speed, divergence, held answers, derived facts, promises.

Prints what must hold beside what was measured. The output file has every item as soon as it is measured; write the
page of tables with `python -m benchmarks.agents.page FILE`. Other work on the machine spoils the speed figures.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.agents.anchor import anchor
from benchmarks.agents.arrivals import arrivals
from benchmarks.agents.facts import facts
from benchmarks.agents.figures import must_hold
from benchmarks.agents.healing import pool_config
from benchmarks.agents.item import AgentItem
from benchmarks.agents.plan import ABOUT, Plan
from benchmarks.agents.promises import promises
from benchmarks.agents.run import AgentRun
from benchmarks.agents.turns import turns
from benchmarks.agents.uncalibrated import uncalibrated
from benchmarks.bench.record import Record
from benchmarks.corpora import CorpusUnavailable
from benchmarks.corpora.agent_material import agent_material
from benchmarks.measure import full_prefill
from benchmarks.runner import measured_on, table
from benchmarks.workloads.agent_chains import EDITS
from semshare_core import SemShareEngine

PARTS: dict[str, Callable[[AgentRun], None]] = {
    "turns": turns,
    "promises": promises,
    "facts": facts,
    "anchor": anchor,
    "uncalibrated": uncalibrated,
    "arrivals": arrivals,
}
OUT = Path("out/agents.json")
TURNS = range(2, 21)


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    console = Console(log_path=False)
    if not console.is_terminal:
        console = Console(log_path=False, width=160)
    try:
        material = agent_material()
    except CorpusUnavailable as error:
        print(f"the texts cannot be had: {error}", file=sys.stderr)
        return 1
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=pool_config(heal=False))
    full_prefill(engine.model, torch.ones((1, 256), dtype=torch.long))  # threads and kernels start up in the first one
    record: Record[AgentItem] = Record(options.out, _about(options))
    run = AgentRun(engine, material, _plan(options), record, partial(console.log, markup=False))
    started = time.perf_counter()
    for name in options.only or PARTS:
        console.rule(f"{name}: {ABOUT[name]}; at most {run.plan.minutes[name]:g} minutes")
        PARTS[name](run)
    if figures := must_hold(record.items):
        console.print(table("what must hold", figures))
    for part in record.parts:
        console.print(f"{part['part']}: {part['measured']} of {part['planned']}, {part['seconds'] / 60:.1f} minutes")
    for note in record.notes:
        console.print(f"note: {note}", markup=False)
    if options.quick:
        console.print("Short prompts, a chain or two of each: this shows that the benchmark runs, not what holds.")
    console.print(f"{(time.perf_counter() - started) / 60:.1f} minutes; every item: {options.out}")
    return 0 if record.items else 1


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan(turns=options.turns, edits=tuple(options.edits or EDITS))
    if options.quick:
        plan = plan.shortened()
    else:
        share = options.minutes / sum(plan.minutes.values()) if options.minutes else 1.0
        plan = replace(plan, minutes={name: share * minutes for name, minutes in plan.minutes.items()})
    return plan.even() if options.even else plan


def _about(options: argparse.Namespace) -> dict[str, object]:
    told = {"model": "demo", "dtype": "float32", "threads": options.threads, "quick": options.quick}
    command = shlex.join(["python", "-m", "benchmarks.agents", *sys.argv[1:]])
    return {**measured_on(), "settings": {**told, "turns": options.turns, "even": options.even}, "command": command}


def _options() -> argparse.Namespace:
    listed = "\n".join(f"  {name:<18}{told}" for name, told in ABOUT.items())
    edits = "\n".join(f"  {name:<18}{told}" for name, told in EDITS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agents",
        description=f"{__doc__}\nparts:\n{listed}\n\nedits:\n{edits}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="shorter prompts, a chain or two, in at most 10 minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="of those above; default: all")
    parser.add_argument("--edits", nargs="+", default=[], metavar="EDIT", help="of the part turns; default: all")
    parser.add_argument("--turns", type=int, default=8, help="of every chain, 2 to 20 (default: 8)")
    parser.add_argument("--even", action="store_true", help="every turn of the long chains adds equally many tokens")
    parser.add_argument("--minutes", type=float, help="of all parts, each takes its share; not with --quick")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for every item (default: {OUT})")
    options = parser.parse_args()
    for given, known in ((options.only, PARTS), (options.edits, EDITS)):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(known)}")
    if options.turns not in TURNS:
        parser.error("--turns must be 2 to 20")
    if options.minutes is not None and not options.minutes > 0:
        parser.error("--minutes must be above 0")
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
