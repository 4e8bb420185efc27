"""A text rewritten again and again: every turn tells another tenth of the last turn's verses in other words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.corpora.bible import ChapterPair
from benchmarks.workloads.paraphrase import TAIL


@dataclass(frozen=True)
class Rewrites:
    """``prompts[0]`` is the chapter in one translation; each later prompt changes the translation of some verses."""

    id: str
    prompts: tuple[str, ...]


def rewrites(
    pairs: Sequence[ChapterPair], *, turns: int = 20, share: float = 0.1, seed: int = 0, tail: str = TAIL
) -> list[Rewrites]:
    """One chain of ``turns`` rewrites a chapter; verses that have just changed do not change in the next turn."""
    return [_one(pair, turns, share, random.Random(f"rewrites-{seed}-{pair.id}"), tail) for pair in pairs]


def _one(pair: ChapterPair, turns: int, share: float, rng: random.Random, tail: str) -> Rewrites:
    verses = range(len(pair.reference))
    told = [pair.reference[verse] for verse in verses]
    changed: set[int] = set()
    prompts = ["\n".join(told) + tail]
    for _ in range(turns):
        free = [verse for verse in verses if verse not in changed]
        changed = set(rng.sample(free, max(1, round(share * len(verses)))))
        for verse in changed:
            told[verse] = (pair.target if told[verse] == pair.reference[verse] else pair.reference)[verse]
        prompts.append("\n".join(told) + tail)
    return Rewrites(f"rewrites-{pair.id}", tuple(prompts))
