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
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.shuffled_edits import shuffled_edits
from semshare_core import ReusePolicy
from semshare_core.match import TokenTable, build_plan
from semshare_core.match.plan import Source
from semshare_core.tokens import Tokens

REPEATS, TOKENS = 5, 8000


@dataclass(frozen=True)
class _Reference:
    id: str
    tokens: Tokens


def matching(run: Run) -> Iterator[Figure]:
    """Shuffled, edited passages: hundreds of runs, and fuzzy matches for the rest."""
    engine, wanted = run.engine, run.tokens(TOKENS)
    pair = shuffled_edits(chapter_texts("web"), run.count_tokens, seeds=[0], tokens=wanted + 200)[0]
    target, reference = (
        np.asarray(engine.tokenizer(prompt, verbose=False)["input_ids"][:wanted], np.int64)
        for prompt in (pair.target_prompt, pair.reference_prompt)
    )
    table = TokenTable(engine.model.get_input_embeddings().weight)
    seconds = full_prefill(engine.model, torch.as_tensor(target, device=engine.model.device)[None])[0]
    run.say(f"full prefill of {len(target)} tokens: {seconds:.1f} s")
    for name, policy in (("ours", ReusePolicy()), ("the paper's LSH", ReusePolicy.paper())):
        spent = []
        for _ in range(run.count(REPEATS)):
            started = time.perf_counter()
            plan = build_plan(target, [_Reference("a", reference)], policy, table, fuzzy=["a"])
            spent.append(time.perf_counter() - started)
        share = median(spent) / seconds
        counts = {source.name.lower(): plan.count(source) for source in Source}
        run.say(f"{name}: {1e3 * median(spent):.0f} ms, {counts}")
        yield Figure(
            f"matching {len(target)} x {len(reference)} tokens, {name}, of the full prefill's {seconds:.1f} s",
            f"{1e3 * median(spent):.0f} ms = {share:.2%}",
            "< 3 %",
            share < 0.03,
            [{"seconds": spent, "full_seconds": seconds, "tokens": counts}],
        )
