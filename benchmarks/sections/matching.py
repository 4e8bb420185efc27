"""What matching costs: 8,000 against 8,000 tokens, beside the full prefill of 8,000."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Say, token_counter
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.match import TokenTable, build_plan
from semshare_core.match.plan import Tokens

TOKENS = 8000


@dataclass(frozen=True)
class _Reference:
    id: str
    tokens: Tokens


def matching(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """Shuffled, edited passages: thousands of runs, and fuzzy matches for the rest."""
    pair = shuffled_edits(chapter_texts("web"), token_counter(engine), seeds=[0], tokens=TOKENS + 200)[0]
    target, reference = (
        np.asarray(engine.tokenizer(prompt)["input_ids"][:TOKENS], np.int64)
        for prompt in (pair.target_prompt, pair.reference_prompt)
    )
    table = TokenTable(engine.model.get_input_embeddings().weight)
    seconds = full_prefill(engine.model, torch.as_tensor(target, device=engine.model.device)[None])[0]
    say(f"full prefill of {len(target)} tokens: {seconds:.1f} s")
    for name, policy in (("ours", ReusePolicy()), ("the paper's LSH", ReusePolicy.paper())):
        spent = []
        for _ in range(count):
            started = time.perf_counter()
            build_plan(target, [_Reference("a", reference)], policy, table, fuzzy="a")
            spent.append(time.perf_counter() - started)
        share = 100 * median(spent) / seconds
        yield Figure(
            f"matching 8k x 8k, {name}", f"{1e3 * median(spent):.0f} ms = {share:.2f} %", "< 3 %", share < 3, spent
        )
