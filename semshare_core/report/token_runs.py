"""What became of each prompt token, told by runs: a few kilobytes, whatever the length of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

Run = tuple[int, int, int]
"""Code of the source, 1 if recomputed, and how many consecutive tokens."""

MOST_RUNS = 256
"""More are left out: recomputed tokens that lie scattered over a long prompt may be thousands."""


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
