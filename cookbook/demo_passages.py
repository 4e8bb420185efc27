"""Which passages a prompt of the demo consists of, and where they stood in earlier prompts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from string import ascii_uppercase

from cookbook.demo_chain import same_beginning
from semshare_core import ReuseReport
from semshare_core.report.token_strip import SOURCES


@dataclass(frozen=True)
class Passage:
    """A passage at its place in a prompt: its name, and its tokens ``start:stop``."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Prompt:
    """A prompt of the demo: the number of its question, the text of each token, its passages in their order."""

    question: int
    tokens: Sequence[str]
    passages: Sequence[Passage]

    def passage(self, name: str) -> Passage | None:
        """The passage of that name, if the prompt has it."""
        return next((passage for passage in self.passages if passage.name == name), None)


def place(question: int, tokens: Sequence[str], texts: Sequence[str], names: dict[str, str]) -> Prompt:
    """Find the passages of a prompt.

    Args:
        texts: every passage there is, as it would stand in a prompt.
        names: of the passages met so far; those met here for the first time get the next letters.
    """
    prompt = "".join(tokens)
    ends = list(accumulate(map(len, tokens)))  # of every token, in characters
    found = sorted((start, text) for text in texts if (start := prompt.find(text)) >= 0)
    for _, text in found:
        names.setdefault(text, _letters(len(names)))
    passages = [
        Passage(names[text], bisect_left(ends, start + 1), bisect_left(ends, start + len(text)) + 1)
        for start, text in found
    ]
    return Prompt(question, tokens, passages)


def main_source(passage: Passage, report: ReuseReport) -> str:
    """Where most tokens of a passage came from: a name of :data:`SOURCES`."""
    [(source, _)] = Counter(report.token_sources[passage.start : passage.stop]).most_common(1)
    return SOURCES[source][0]


def origins(prompt: Prompt, earlier: Sequence[Prompt], report: ReuseReport) -> list[Prompt]:
    """The fewest earlier prompts that have the passages which were reused; at most as many as were drawn on.

    Of two that have as many of them, the one that begins more like ``prompt`` is taken.
    """
    wanted = {passage.name for passage in prompt.passages if main_source(passage, report) != "new"}
    chosen: list[Prompt] = []
    while wanted and len(chosen) < len(report.reference_ids):
        best = max(earlier, key=lambda other: (_has(other, wanted), _alike(prompt, other)), default=None)
        if best is None or not _has(best, wanted):
            break
        chosen.append(best)
        wanted -= {passage.name for passage in best.passages}
    return sorted(chosen, key=lambda other: other.question)


def _has(prompt: Prompt, wanted: set[str]) -> int:
    return sum(passage.name in wanted for passage in prompt.passages)


def _alike(prompt: Prompt, other: Prompt) -> int:
    return same_beginning(prompt.tokens, other.tokens)


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    before, letter = divmod(number, len(ascii_uppercase))
    return (_letters(before - 1) if before else "") + ascii_uppercase[letter]
