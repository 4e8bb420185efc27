"""Level exact: the model's own greedy answers, a shared prefix, and what a miss costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.corpora import pydoc_text
from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill
from benchmarks.sections.figure import Figure, Say, token_counter
from benchmarks.workloads.multi_turn import conversations, replay
from benchmarks.workloads.shared_prefix import shared_prefixes
from benchmarks.workloads.unrelated import unrelated
from semshare_core import SemShareEngine

NEW_TOKENS = 32


def greedy(engine: SemShareEngine, prompt: Any) -> list[int]:
    """What plain ``model.generate`` answers."""
    ids = torch.tensor([engine.token_ids(prompt)], device=engine.model.device)
    made = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False)
    return made[0, ids.shape[1] :].tolist()


def multi_turn(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """50 prompts of multi-turn conversations; from the second turn on each finds the turn before."""
    same, prefixes, done = 0, 0, 0
    engine.pool.clear()
    for conversation in conversations(chapter_texts("web"), token_counter(engine), count=-(-count // 3)):

        def answer(messages: list[Any]) -> str:
            nonlocal same, prefixes, done
            out = engine.generate(messages, max_new_tokens=NEW_TOKENS, reuse="exact")
            if done < count:
                done += 1
                same += out.token_ids == greedy(engine, messages)
                prefixes += out.report.prefix_tokens > 0
                say(f"{done}/{count}: {same} identical, {prefixes} with a prefix")
            return out.text

        replay(conversation, answer)
    yield Figure("multi-turn prompts answered as model.generate does", f"{same}/{done}", "all", same == done)
    yield Figure("of them with a reused prefix", f"{prefixes}/{done}")


def shared_prefix(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """4,000 tokens shared, 60 new ones."""
    speedups = []
    engine.pool.clear()
    for pair in shared_prefixes(chapter_texts("web"), token_counter(engine), count=count):
        engine.warm([pair.reference_prompt])
        ids = torch.tensor([engine.token_ids(pair.target_prompt)], device=engine.model.device)
        full = full_prefill(engine.model, ids)[0]
        report = engine.prefill(pair.target_prompt, reuse="exact", store=False).report
        speedups.append(1e3 * full / report.ttft_ms)
        say(f"{report.summary()}; full prefill {full:.2f} s")
    best = median(speedups)
    yield Figure("shared prefix, TTFT against the full prefill", f"{best:.1f}x", ">= 25x", best >= 25, speedups)


def miss(engine: SemShareEngine, count: int, say: Say) -> Iterator[Figure]:
    """Nothing to reuse: lookup, matching and the governor for nothing. Alternated with the plain prefill."""
    case = unrelated(chapter_texts("web"), pydoc_text.texts(), token_counter(engine))
    engine.pool.clear()
    engine.warm(list(case.pool_prompts))
    ids = torch.tensor([engine.token_ids(case.prompt)], device=engine.model.device)
    ratios, own = [], []
    full_prefill(engine.model, ids)
    for _ in range(count):
        before = full_prefill(engine.model, ids)[0]
        started = time.perf_counter()
        report = engine.prefill(case.prompt, reuse="balanced", store=False).report
        whole = time.perf_counter() - started
        after = full_prefill(engine.model, ids)[0]
        ratios.append(report.ttft_ms / 1e3 / ((before + after) / 2))
        own.append((report.lookup_ms + report.match_ms) / 10 / before)
        say(
            f"{report.outcome}: {report.ttft_ms / 1e3:.2f} s of {whole:.2f} s; full prefill {before:.2f}, {after:.2f} s"
        )
    over = 100 * (median(ratios) - 1)
    yield Figure(
        f"miss at {ids.shape[1]} tokens, TTFT over the plain prefill", f"{over:+.1f} %", "<= 2 %", over <= 2, ratios
    )
    yield Figure("of it lookup and matching", f"{median(own):.2f} %")
