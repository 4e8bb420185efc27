"""Text to calibrate on: Python's language reference (``pydoc_data.topics``), which is on every machine."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

QUESTIONS = (
    "In one paragraph, tell what the text above is about.",
    "Which three points of the text matter most?",
    "What would a beginner have to know before reading this?",
    "Explain the text above to a child.",
    "Which names are mentioned above, and what for?",
    "What does the text say last, and how does that follow from the rest?",
    "Continue with a summary of the text above in plain words.",
    "Give the text a title and say why it fits.",
)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SPACE = re.compile(r"[ \t]*\n[ \t]*")
_PASSAGE_WORDS = (40, 180)


class TextSource:
    """Draws passages, each only once.

    Attributes:
        words: the length of a text, drawn evenly on a logarithmic scale between ``lengths``.
    """

    def __init__(self, passages: Sequence[str], rng: random.Random, lengths: tuple[int, int]) -> None:
        self._order = iter(rng.sample(passages, len(passages)))
        low, high = lengths
        self.words = round(low * (high / low) ** rng.random())

    def take(self, count: int) -> list[str]:
        return [next(self._order) for _ in range(count)]

    def draw_words(self, words: int) -> str:
        """Passages of at least ``words`` words together, as one text."""
        passages = self.take(1)
        while sum(len(passage.split()) for passage in passages) < words:
            passages += self.take(1)
        return "\n\n".join(passages)

    def draw_text(self) -> list[str]:
        """The passages of a text with the pair's length, at least three."""
        passages = self.take(3)
        while sum(len(passage.split()) for passage in passages) < self.words:
            passages += self.take(1)
        return passages


def with_numbers(passages: Sequence[str], rng: random.Random) -> list[str]:
    return [
        f"{passage}\nEntry {number} was checked on {rng.randint(1, 28)} May {rng.randint(1950, 2030)} and has number "
        f"{rng.randint(1000, 9999)}."
        for number, passage in enumerate(passages, 1)
    ]


def replaced(text: str, share: float, phrase: tuple[int, int], rng: random.Random) -> str:
    """Replace about ``share`` of the words by other words of the text, in phrases of ``phrase`` (least, most) words."""
    stock = sorted(set(_WORD.findall(text.lower())))
    mean = sum(phrase) / 2
    begin = share / (share + mean * (1 - share))  # with this probability, phrases of the mean length make up the share
    left = 0

    def other(word: re.Match[str]) -> str:
        nonlocal left
        if not left and rng.random() < begin:
            left = rng.randint(*phrase)
        if not left:
            return word.group()
        left -= 1
        return rng.choice(stock)

    return _WORD.sub(other, text)


def read_passages() -> list[str]:
    """Prose of the language reference in passages of ``_PASSAGE_WORDS`` words, cut between paragraphs."""
    from pydoc_data import topics

    low, high = _PASSAGE_WORDS
    passages = []
    for text in topics.topics.values():
        gathered: list[str] = []
        for paragraph in text.split("\n\n"):
            words = len(_WORD.findall(paragraph))
            if words < 8 or words > high:  # headings, lines and long tables
                continue
            gathered.append(_SPACE.sub(" ", paragraph).strip())
            if sum(len(part.split()) for part in gathered) >= low:
                passages.append(" ".join(gathered))
                gathered = []
    return passages
