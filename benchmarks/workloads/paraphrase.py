"""Rewrites: the reference is a chapter in one Bible translation, the target the same chapter in another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.case import Case
from benchmarks.corpora.row import Row

TAIL = "\n\nContinue with a summary of the chapter above in plain words:"


@dataclass(frozen=True)
class Paraphrase:
    id: str
    reference_prompt: str
    target_prompt: str


def paraphrases(rows: Sequence[Row], tail: str = TAIL) -> list[Paraphrase]:
    """One pair of prompts a row (see `benchmarks.corpora.bible.rows`), with the same instruction behind both texts."""
    return [Paraphrase(row.id, row.reference + tail, row.target + tail) for row in rows]


def paraphrase_cases(made: Iterable[Paraphrase]) -> list[Case]:
    """The pairs as cases; nothing is looked up."""
    return [Case(each.id, "paraphrase", (each.reference_prompt,), each.target_prompt) for each in made]
