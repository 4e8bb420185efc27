"""The README's picture: the same passages in another order, timed three ways: ``python -m benchmarks.picture``.

The demo model, one thread, in processor time: on a free machine that is what the clock shows, and it stays so on a busy
one. The figures go into ``first-screen.json`` beside the picture; the README quotes them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.case import Case
from benchmarks.corpora.pydoc_text import passages
from benchmarks.measure import baseline, divergence, full_prefill
from benchmarks.report.drawing import save
from benchmarks.report.first_screen import describe, first_screen
from benchmarks.runner import POOL, measured_on
from benchmarks.systems.answer import common_length
from benchmarks.systems.engine_system import EngineSystem
from benchmarks.systems.full_prefill import FullPrefill
from benchmarks.systems.system import Subject
from benchmarks.workloads.passages import cut_to_tokens
from semshare_core import ReusePolicy, SemShareEngine

MODULES = ("argparse", "csv", "shutil", "tempfile", "textwrap", "zipfile")
INSTRUCTION = "Answer the question from the documentation of Python below, in one sentence."
QUESTIONS = ("How do I read a table from a file?", "How do I delete a folder with all that is in it?")
ORDER = (3, 0, 5, 1, 2, 4)
SYSTEMS = (
    FullPrefill(),
    EngineSystem("prefix cache", ReusePolicy(level="exact")),  # transformers' own way to go on from a cache is slower
    EngineSystem("SemShare, balanced", ReusePolicy(level="balanced")),
)


def main() -> None:
    """Measure, draw, and write both files."""
    options = _options()
    torch.set_num_threads(1)
    engine = SemShareEngine.from_pretrained("demo", dtype=torch.float32, pool=POOL)
    told = make_picture(engine, options.out, options.tokens, options.repeats)
    print(f"{describe(told)}\n{options.out / 'first-screen.svg'}, {options.out / 'first-screen.json'}")


def make_picture(engine: SemShareEngine, folder: Path, tokens: int, repeats: int) -> dict[str, Any]:
    """Write ``first-screen.svg`` and ``first-screen.json`` into ``folder``; returns what the latter holds."""
    told = {**measured_on(), "command": "python -m benchmarks.picture", "threads": torch.get_num_threads()}
    told |= measure_picture(engine, reordered(engine, tokens), repeats)
    folder.mkdir(parents=True, exist_ok=True)
    save(first_screen(told), folder / "first-screen.svg", letters="none")
    (folder / "first-screen.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return told


def reordered(engine: SemShareEngine, tokens: int) -> Case:
    """About ``tokens`` tokens: documentation of six modules, then the same in another order with another question."""
    each = tokens // len(MODULES)
    texts = [_documentation(engine, module, each) for module in MODULES]
    earlier = "\n\n".join([INSTRUCTION, *texts, QUESTIONS[0]])
    new = "\n\n".join([INSTRUCTION, *(texts[place] for place in ORDER), QUESTIONS[1]])
    return Case("first-screen", "first screen", (f"{earlier}\n\nAnswer:",), f"{new}\n\nAnswer:")


def measure_picture(engine: SemShareEngine, case: Case, repeats: int) -> dict[str, Any]:
    """Processor seconds to the first token by system, the median of ``repeats``, and how near the answer is."""
    full_prefill(engine.model, torch.ones((1, 256), dtype=torch.long))  # threads and kernels start up in the first one
    engine.warm(case.references)
    base = baseline(engine, case.target)
    subject = Subject(engine, case, base, 0, wants_text=False)
    seconds: dict[str, list[float]] = {system.name: [] for system in SYSTEMS}
    for _ in range(repeats):
        for system in SYSTEMS:
            call = system.ready(subject)
            started = time.process_time()
            call()
            seconds[system.name].append(time.process_time() - started)
    made = engine.prefill(case.target, reuse="balanced", store=False)
    found = divergence(engine.model, base, made.logits, made.cache)
    [reference] = case.references
    return {
        "prompt_tokens": made.report.prompt_tokens,
        "prefix_tokens": common_length(engine.token_ids(reference), engine.token_ids(case.target)),
        "recomputed_tokens": made.report.recomputed_tokens,
        "outcome": made.report.outcome,
        "order": list(ORDER),
        "passages": list(MODULES),
        "seconds": {name: round(median(times), 3) for name, times in seconds.items()},
        "kl": round(float(found.kl.mean()), 4),
        "repeats": repeats,
    }


def _documentation(engine: SemShareEngine, module: str, tokens: int) -> str:
    def count(text: str) -> int:
        return len(engine.token_ids(text))

    return cut_to_tokens(f"# {module}\n" + "\n\n".join(passages(module)), tokens, count)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the picture (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=3000, help="of a prompt, about (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
