"""Rewrites: the reference is a chapter in one Bible translation, the target the same chapter in another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
