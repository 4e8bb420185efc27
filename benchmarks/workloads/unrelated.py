"""A miss: a long prompt that has nothing in common with what is in the pool."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.case import Case
from benchmarks.workloads.passages import CountTokens, gather_tokens

SHARED_WORDS = 3
"""So many words in a row count as something in common."""


@dataclass(frozen=True)
class Unrelated:
    id: str
    pool_prompts: tuple[str, ...]
    prompt: str


def unrelated(
    pool_texts: Sequence[str],
    prompt_texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    tokens: int = 4000,
    pool_prompts: int = 2,
    seed: int = 0,
) -> Unrelated:
    """A prompt from `prompt_texts`, less the lines that have `SHARED_WORDS` words in a row in common with the pool.

    Take the two from different corpora: Bible chapters for the pool, say, and pydoc for the prompt.
    """
    rng = random.Random(f"unrelated-{seed}")
    pool = tuple(gather_tokens(pool_texts, tokens, count_tokens, rng) for _ in range(pool_prompts))
    known = {run for prompt in pool for run in word_runs(prompt)}
    kept = ["\n".join(_strange_lines(text, known)) for text in prompt_texts]
    return Unrelated(
        f"unrelated-{seed}", pool, gather_tokens([text for text in kept if text], tokens, count_tokens, rng)
    )


def word_runs(text: str) -> Iterator[tuple[str, ...]]:
    """Every run of `SHARED_WORDS` words, in lower case."""
    words = text.lower().split()
    return zip(*(words[offset:] for offset in range(SHARED_WORDS)), strict=False)


def unrelated_cases(made: Iterable[Unrelated]) -> list[Case]:
    """The prompts as cases after the pool's prompts, which have nothing for them."""
    return [Case(each.id, "misses", each.pool_prompts, each.prompt) for each in made]


def _strange_lines(text: str, known: set[tuple[str, ...]]) -> list[str]:
    """The lines without a known run, also none that begins in the line before, as it will stand in the prompt."""
    kept: list[str] = []
    for line in text.split("\n"):
        before = " ".join(kept[-SHARED_WORDS:])
        if line.strip() and known.isdisjoint(word_runs(f"{before} {line}")):
            kept.append(line)
    return kept
