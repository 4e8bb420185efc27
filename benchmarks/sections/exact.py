"""Level exact: the model's own greedy answers, and a long shared prefix."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.corpora.bible import chapter_texts
from benchmarks.measure import full_prefill, greedy
from benchmarks.sections.figure import Figure, Run
from benchmarks.workloads.multi_turn import conversations, replay
from benchmarks.workloads.shared_prefix import shared_prefixes

PROMPTS, TURNS, NEW_TOKENS = 50, 3, 32
REPEATS, PREFIX_TOKENS, TAIL_TOKENS = 3, 4000, 60


def exact(run: Run) -> Iterator[Figure]:
    """Lossless, and worth it."""
    yield from _multi_turn(run)
    yield from _shared_prefix(run)


def _multi_turn(run: Run) -> Iterator[Figure]:
    """From its second turn on, each prompt finds the turn before."""
    engine, wanted = run.engine, run.count(PROMPTS)
    items: list[dict[str, Any]] = []
    engine.pool.clear()
    made = conversations(chapter_texts("web"), run.count_tokens, count=-(-wanted // TURNS), turns=TURNS)
    for conversation in made:

        def answer(messages: list[Any], name: str = conversation.id) -> str:
            out = engine.generate(messages, max_new_tokens=NEW_TOKENS, reuse="exact")
            if len(items) < wanted:
                same = out.token_ids == greedy(engine, messages, NEW_TOKENS)
                report = out.report
                items.append(
                    {
                        "id": f"{name}, {len(messages)} messages",
                        "identical": same,
                        "prompt_tokens": report.prompt_tokens,
                        "prefix_tokens": report.prefix_tokens,
                        "ttft_ms": report.ttft_ms,
                        "answer": out.token_ids,
                    }
                )
                run.say(f"{len(items)}/{wanted} {'identical' if same else 'DIFFERENT'}: {report.summary()}")
            return out.text

        replay(conversation, answer)
    same = sum(entry["identical"] for entry in items)
    reused = sum(entry["prefix_tokens"] > 0 for entry in items)
    yield Figure(
        f"{NEW_TOKENS} greedy tokens identical to model.generate",
        f"{same}/{len(items)} multi-turn prompts, {reused} of them with a reused prefix",
        "all",
        same == len(items) == wanted,
        items,
    )


def _shared_prefix(run: Run) -> Iterator[Figure]:
    """One long document, another question."""
    engine = run.engine
    items: list[dict[str, Any]] = []
    engine.pool.clear()
    for pair in shared_prefixes(
        chapter_texts("web"),
        run.count_tokens,
        prefix_tokens=run.tokens(PREFIX_TOKENS),
        tail_tokens=TAIL_TOKENS,
        count=run.count(REPEATS),
    ):
        if not items:  # all pairs share the reference
            engine.warm([pair.reference_prompt])
        ids = torch.tensor([engine.token_ids(pair.target_prompt)], device=engine.model.device)
        seconds = full_prefill(engine.model, ids)[0]
        report = engine.prefill(pair.target_prompt, reuse="exact", store=False).report
        items.append(
            {
                "id": pair.id,
                "speedup": 1e3 * seconds / report.ttft_ms,
                "full_ms": 1e3 * seconds,
                "ttft_ms": report.ttft_ms,
                "prompt_tokens": report.prompt_tokens,
                "prefix_tokens": report.prefix_tokens,
            }
        )
        run.say(f"{report.summary()}; full prefill {seconds:.2f} s: {items[-1]['speedup']:.1f}x")
    middle = median(entry["speedup"] for entry in items)
    tokens = f"{items[0]['prefix_tokens']} shared + {items[0]['prompt_tokens'] - items[0]['prefix_tokens']} new tokens"
    yield Figure(f"TTFT with {tokens}", f"{middle:.1f}x", ">= 25x", middle >= 25, items)
