"""Cut source texts into passages, and texts to a number of tokens."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

CountTokens = Callable[[str], int]

_GAP = re.compile(r"\s+")


def word_count(text: str) -> int:
    """A stand-in for a tokenizer where none is at hand."""
    return len(text.split())


def pack_passages(
    texts: Sequence[str], count_tokens: CountTokens, low: int, high: int, rng: random.Random
) -> Iterator[str]:
    """Passages of `low`..`high` tokens, whole lines each, drawn from the texts in random order.

    No line is used twice and no passage crosses from one text into another.
    """
    for text in rng.sample(texts, len(texts)):
        lines = [line for line in text.split("\n") if line.strip()]
        at = rng.randrange(len(lines)) if lines else 0  # not always the beginnings of texts
        for run in (lines[at:], lines[:at]):
            yield from _pack(run, count_tokens, low, high)


def _pack(lines: Sequence[str], count_tokens: CountTokens, low: int, high: int) -> Iterator[str]:
    gathered: list[str] = []
    for line in lines:
        if count_tokens("\n".join([*gathered, line])) > high:
            gathered = []  # too long with this line and, as yet, too short without it
        gathered.append(line)
        size = count_tokens("\n".join(gathered))
        if low <= size <= high:
            yield "\n".join(gathered)
            gathered = []
        elif size > high:
            gathered = []


def cut_to_tokens(text: str, tokens: int, count_tokens: CountTokens) -> str:
    """The longest beginning of `text` that has at most `tokens` tokens and ends with a whole word."""
    ends = [gap.start() for gap in _GAP.finditer(text) if gap.start()] + [len(text)]
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(text[: ends[middle - 1]]) <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[: ends[low - 1]] if low else ""


def gather_tokens(texts: Sequence[str], tokens: int, count_tokens: CountTokens, rng: random.Random) -> str:
    """About `tokens` tokens of the texts, drawn in random order; raises `ValueError` if they do not have that many."""
    gathered: list[str] = []
    held = 0
    for text in rng.sample(texts, len(texts)):
        gathered.append(text)
        held += count_tokens(text)
        if held >= tokens:
            whole = "\n\n".join(gathered)
            if count_tokens(whole) >= tokens:
                return cut_to_tokens(whole, tokens, count_tokens)
    raise ValueError(f"the source texts have about {held} tokens, {tokens} are needed")
