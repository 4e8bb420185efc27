"""Every system on every workload, speed and quality side by side, on the demo model in float32.

Prints what must hold beside what was measured. The output file has every item as soon as it is measured; make pages and
plots of it with `python -m benchmarks.report FILE`. Other work on the machine spoils the speed figures.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console

from benchmarks.bench.figures import must_hold
from benchmarks.bench.peers import run_peers
from benchmarks.bench.plan import MINUTES, PEERS_PART, PLAN, QUALITY, Part, PeersPart
from benchmarks.bench.record import Record
from benchmarks.bench.run import Runner
from benchmarks.bench.workloads import ABOUT, WORKLOADS, build_cases
from benchmarks.case import Case
from benchmarks.corpora import CorpusUnavailable
from benchmarks.measure import full_prefill
from benchmarks.peers import PEERS
from benchmarks.runner import POOL, measured_on, table
from benchmarks.systems import SYSTEMS
from benchmarks.workloads.own_rows import own_rows
from semshare_core import SemShareEngine

PEERS_NAME = "peers"
OUT = Path("out/bench.json")
OWN_MINUTES = 60
AnyPart = TypeVar("AnyPart", Part, PeersPart)


def main() -> int:
    options = _options()
    try:
        own = _own(options.rows) if options.rows else []
    except (OSError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        print(f"{options.rows} has no rows to measure: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    console = Console(log_path=False)
    if not console.is_terminal:
        console = Console(log_path=False, width=160)
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=POOL)
    full_prefill(engine.model, torch.ones((1, 256), dtype=torch.long))  # threads and kernels start up in the first one
    say = partial(console.log, markup=False)  # what a peer says may have brackets of its own
    runner = Runner(engine, Record(options.out, _about(options)), say)
    started = time.perf_counter()
    if own:
        runner.run(_own_part(own, options), own, [SYSTEMS[name] for name in _chosen(QUALITY, options.systems)])
    for part in _parts(options):
        _run(runner, part, console, options.systems)
    if _wants_peers(options):
        console.rule("peers")
        peers = _sized(PEERS_PART, options)
        run_peers(runner, peers, _chosen(peers.names, options.systems), options.threads)
    if figures := must_hold(runner.record.items):
        console.print(table("what must hold", figures))
    for note in runner.record.notes:
        console.print(f"note: {note}", markup=False)
    if options.quick:
        console.print("A case or two of each: this shows that the benchmark runs, not what holds.")
    console.print(f"{(time.perf_counter() - started) / 60:.1f} minutes; every item: {options.out}")
    return 0 if runner.record.items else 1


def _run(runner: Runner, part: Part, console: Console, systems: Sequence[str]) -> None:
    console.rule(f"{part.workload}: {ABOUT[part.workload]}")
    chosen = [SYSTEMS[name] for name in _chosen(part.systems, systems)]
    if not chosen:
        return
    try:
        cases = build_cases(part.workload, runner.count_tokens, part.first, part.cases)
    except CorpusUnavailable as error:
        runner.note(f"{part.workload}: {error}")
        return
    runner.run(part, cases, chosen)


def _parts(options: argparse.Namespace) -> list[Part]:
    wanted = options.only if options.only or options.rows else list(WORKLOADS)
    parts = [_sized(part, options) for part in PLAN if part.workload in wanted]
    return [part for part in parts if part.cases]


def _sized(part: AnyPart, options: argparse.Namespace) -> AnyPart:
    """With its share of the minutes, or shortened with ``--quick``."""
    if options.quick:
        return part.shortened()
    return replace(part, minutes=part.minutes * options.minutes / MINUTES)


def _own(path: Path) -> list[Case]:
    cases = own_rows(path)
    if not cases:
        raise ValueError("it is empty")
    return cases


def _own_part(own: Sequence[Case], options: argparse.Namespace) -> Part:
    part = Part(own[0].workload, QUALITY, cases=len(own), minutes=OWN_MINUTES)
    return part.shortened() if options.quick else part


def _wants_peers(options: argparse.Namespace) -> bool:
    named = any(name in PEERS for name in options.systems)
    if options.only or options.rows:
        return PEERS_NAME in options.only
    return named or not options.systems


def _chosen(planned: Sequence[str], systems: Sequence[str]) -> list[str]:
    return [name for name in planned if not systems or name in systems]


def _about(options: argparse.Namespace) -> dict[str, object]:
    told = {"model": "demo", "dtype": "float32", "threads": options.threads, "quick": options.quick}
    return {
        **measured_on(),
        "settings": told,
        "command": shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
    }


def _options() -> argparse.Namespace:
    listed = "\n".join(f"  {name:<18}{told}" for name, told in ABOUT.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench",
        description=f"{__doc__}\nworkloads:\n{listed}\n  {PEERS_NAME:<18}other projects, in environments of their own",
        epilog=f"systems: {', '.join((*SYSTEMS, *PEERS))}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a case or two of each workload, in at most 10 minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help="of those below; default: all")
    parser.add_argument("--systems", nargs="+", default=[], metavar="SYSTEM", help="of those at the end; default: all")
    parser.add_argument(
        "--rows",
        type=Path,
        metavar="FILE.jsonl",
        help="your own prompts: a JSON object a line with id, reference, target and, if something is looked up, "
        "question, gold (the answer) and old (the reference's); --only says what else is measured",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help=f"of all parts, each takes its share; not with --quick (default: {MINUTES:g})",
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch and of the peers (default: 2)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"file for every item (default: {OUT})")
    options = parser.parse_args()
    for given, known in ((options.only, (*WORKLOADS, PEERS_NAME)), (options.systems, (*SYSTEMS, *PEERS))):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(known)}")
    if not options.minutes > 0:
        parser.error("--minutes must be above 0")
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
