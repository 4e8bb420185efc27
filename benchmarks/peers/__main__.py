"""The peers from the command line: `python -m benchmarks.peers install|list|try`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.corpora import CorpusUnavailable, bible
from benchmarks.measure import Baseline, baseline, full_prefill
from benchmarks.peers import PEERS, PeerFailed, PeerItem, PeerResult, PeerUnavailable, item_of
from benchmarks.peers.catalogue import ENVIRONMENTS
from benchmarks.peers.item import divergence_of
from benchmarks.runner import POOL
from benchmarks.workloads.shuffled_edits import TAIL, shuffled_edits
from semshare_core import SemShareEngine

CONTINUED_TOKENS = 32
OTHER_QUESTION = "\n\nWho speaks in the passages above, and to whom?\nAnswer:"


def main() -> int:
    options = _options()
    if options.command == "install":
        return _install(options.names or list(PEERS))
    if options.command == "list":
        return _list()
    return _try(options.name, options.threads, options.tokens)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    install = commands.add_parser("install", help="make the environments that are not there yet")
    install.add_argument("names", nargs="*", metavar="name", help=f"default: all of {', '.join(PEERS)}")
    commands.add_parser("list", help="which are installed, and why not")
    attempt = commands.add_parser("try", help="two small items through one peer")
    attempt.add_argument("name", choices=PEERS)
    attempt.add_argument("--threads", type=int, default=1, help="of the peer (default: 1)")
    attempt.add_argument("--tokens", type=int, default=1200, help="of each prompt, about (default: 1200)")
    options = parser.parse_args()
    unknown = set(getattr(options, "names", ())) - set(PEERS)
    if unknown:
        parser.error(f"unknown peer: {', '.join(sorted(unknown))}; choose of {', '.join(PEERS)}")
    return options


def _install(names: Iterable[str]) -> int:
    failed = 0
    for name in names:
        print(f"{name} …", flush=True)
        try:
            ENVIRONMENTS[name].install()
        except PeerUnavailable as error:
            print(f"  unavailable: {error}")
            failed = 1
        else:
            print(f"  ready in {ENVIRONMENTS[name].folder}")
    return failed


def _list() -> int:
    for name, environment in ENVIRONMENTS.items():
        try:
            print(f"{name}: {environment.python}")
        except PeerUnavailable as error:
            print(f"{name}: {error}")
    return 0


def _try(name: str, threads: int, tokens: int) -> int:
    torch.set_num_threads(threads)
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=POOL)
    full_prefill(engine.model, torch.ones((1, 256), dtype=torch.long))
    try:
        cases = _cases(engine, tokens)
        bases = [baseline(engine, case.target, CONTINUED_TOKENS) for case in cases]
        items = [item_of(case, engine, base) for case, base in zip(cases, bases, strict=True)]
        results = PEERS[name].run(items, threads)
    except (CorpusUnavailable, PeerUnavailable, PeerFailed) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    Console(width=170).print(_table(name, results, dict(zip((item.id for item in items), bases, strict=True)), items))
    return 0


def _cases(engine: SemShareEngine, tokens: int) -> list[Case]:
    """The same passages shuffled and edited, and as they were under another question."""
    counted = shuffled_edits(
        bible.chapter_texts(), lambda text: len(engine.token_ids(text)), seeds=(0,), tokens=tokens
    )[0]
    asked = counted.reference_prompt.removesuffix(TAIL) + OTHER_QUESTION
    return [
        Case("shuffled", "shuffled_edits", (counted.reference_prompt,), counted.target_prompt),
        Case("shared prefix", "shared_prefix", (counted.reference_prompt,), asked),
    ]


def _table(name: str, results: list[PeerResult], bases: dict[str, Baseline], items: list[PeerItem]) -> Table:
    lengths = {item.id: len(item.target) for item in items}
    made = Table(title=f"{name}: against its own full prefill, and (in brackets) against transformers' in float32")
    for column in ("item", "tokens", "setting", "TTFT s", "full s", "speed", "KL", "agreement", "KV MB", "RSS MB"):
        made.add_column(column, overflow="fold")
    for result in results:
        row = [result.id, str(lengths[result.id]), result.setting]
        sample = result.sample
        if sample is None:
            made.add_row(*row, str(result.error))
            continue
        kl = agreement = "no logits"
        if sample.log_probs:
            base = bases[result.id]
            continuation = tuple(base.continuation.tolist())
            reused, full = sample.log_probs()
            own, ours = (divergence_of(rows, reused, continuation) for rows in (full, base.log_probs.numpy()))
            same = (reused.argmax(axis=-1) == full.argmax(axis=-1)).mean()
            kl = f"{own.kl.mean():.4f} ({ours.kl.mean():.4f})"
            agreement = f"{same:.2f} ({ours.agree.mean():.2f})"
        made.add_row(
            *row,
            f"{median(sample.ttft_seconds):.3f}",
            f"{median(sample.full_seconds):.3f}",
            f"{sample.speedup:.2f}",
            kl,
            agreement,
            f"{sample.kv_bytes / 1e6:.1f}",
            f"{sample.peak_rss_bytes / 1e6:.0f}",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
