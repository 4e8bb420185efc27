"""The source of each prompt token, in runs of equal ones: a few kilobytes, whatever the length of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

Run = tuple[int, int, int]
"""Code of the source, 1 if recomputed, and a number of tokens: ``(3, 0, 120)`` is a prefix of 120 tokens."""

MOST_RUNS = 256
"""A prompt with more has none: recomputed tokens may lie in thousands of places."""


def runs_of(sources: Sequence[int], recomputed: Sequence[int]) -> list[Run]:
    """The runs of a prompt's tokens in their order; none if they are more than ``MOST_RUNS``."""
    runs: list[Run] = []
    for (source, computed), tokens in groupby(zip(sources, recomputed, strict=True)):
        if len(runs) == MOST_RUNS:
            return []
        runs.append((source, computed, sum(1 for _ in tokens)))
    return runs


def tokens_of(runs: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Sources and recomputed tokens, one number per token, from their runs."""
    sources, recomputed = [], []
    for source, computed, length in runs:
        sources += [source] * length
        recomputed += [computed] * length
    return sources, recomputed
