"""Lines in another order: in one wording that every line repeats, or each a sentence of its own.

Lines of both wordings have about 35 tokens. So what differs between them is that the lines of a list are alike.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from semshare_core.prompt.encode import Prompt

Wording = Literal["one wording", "prose"]
Order = Literal["any order", "begun at another line"]

LINES = 20
QUESTIONS = {
    "last": "Who or what is named last in the text above?",
    "about": "In one paragraph, tell what the text above is about.",
}
_WORDS = {
    "name": "Alice Boris Clara David Elena Felix Greta Hugo Irene Jonas Karla Leon Maria Nils Olga Peter Rosa Vera",
    "city": "Paris London Berlin Madrid Rome Vienna Prague Warsaw Lisbon Dublin Oslo Athens Zurich Milan Turin Porto",
    "job": "teacher doctor baker pilot farmer lawyer nurse cook writer judge",
    "pet": "dog cat horse parrot",
    "thing": "valve door filter tank lever wheel button gauge tray bowl plate board box cart",
}
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_LENGTH = (20, 30)  # words of a sentence


@dataclass(frozen=True)
class MovedLines:
    """Two prompts with the same lines; the second has them in another order."""

    id: str
    reference: Prompt
    target: Prompt


def moved_lines(
    wording: Wording, order: Order, question: str, texts: Sequence[str], *, count: int, lines: int = LINES
) -> list[MovedLines]:
    """``count`` pairs. Equal arguments give equal pairs.

    Args:
        question: a key of ``QUESTIONS``.
        texts: prose from which sentences are drawn.
        lines: of a prompt.
    """
    found = [sentence for text in texts for sentence in _SENTENCE.split(" ".join(text.split()))]
    sentences = [text for text in dict.fromkeys(found) if _LENGTH[0] <= len(text.split()) <= _LENGTH[1]]
    made = []
    for number in range(count):
        rng = random.Random(f"moved-lines-{order}-{number}")
        before = rng.sample(sentences, lines) if wording == "prose" else _alike(lines, rng)
        start = rng.randrange(1, lines)
        after = rng.sample(before, lines) if order == "any order" else [*before[start:], *before[:start]]
        reference, target = (_prompt(each, QUESTIONS[question]) for each in (before, after))
        made.append(MovedLines(f"{wording}, {order}, {question}, {number}", reference, target))
    return made


def _prompt(lines: Sequence[str], question: str) -> Prompt:
    return [{"role": "user", "content": "\n".join(lines) + f"\n\n{question}"}]


def _alike(lines: int, rng: random.Random) -> list[str]:
    words = {kind: several.split() for kind, several in _WORDS.items()}
    made = []
    for _ in range(lines):
        name, city, job, pet, one, two = (
            rng.choice(words[k]) for k in ("name", "city", "job", "pet", "thing", "thing")
        )
        made.append(
            f"{name} lives in {city} and works as a {job} there, has {rng.randint(2, 5)} children and a {pet}, and "
            f"came late because the {one} of the {two} was broken that morning."
        )
    return made
