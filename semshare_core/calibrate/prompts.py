"""Calibration prompts: pairs of prompts that resemble each other. The user brings them, or we make them.

Our text is Python's language reference (``pydoc_data.topics``), which is on every machine. Each pair imitates a kind of
work: retrieved passages in another order, passages from many prompts, a newer edition, a rewrite, a conversation
without its oldest part, changed facts, retrieved passages of which some are new. Each pair draws how much differs.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from semshare_core.errors import ConfigError
from semshare_core.prompt.encode import Prompt

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
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORD = re.compile(r"[^\W\d_]{2,}")
_SPACE = re.compile(r"[ \t]*\n[ \t]*")
_PASSAGE_WORDS = (40, 180)
_LENGTHS = (200, 1000)  # words of a target, drawn evenly on a logarithmic scale
_LONG = (1200, 4200)  # the same for every fifth round
_LONG_EVERY = 5
_MOST_SOURCES = 8
_PHRASE_WORDS = (1, 5)
_QUOTED_WORDS = (4, 20)
_SHARED = (0.3, 0.95)  # of the passages


@dataclass(frozen=True)
class CalibrationPair:
    """A target prompt and its earlier prompts. A promise must hold within each ``kind`` of work."""

    id: str
    references: tuple[Prompt, ...]
    target: Prompt
    kind: str = ""


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")
    id: str = ""
    reference: str | list[str]
    target: str
    question: str = ""
    kind: str = ""


def read_pairs(path: Path) -> list[CalibrationPair]:
    """Read pairs from a JSONL file. A line is, for example::

        {"reference": "An earlier prompt.", "target": "The new prompt.", "question": "What is new?", "kind": "chat"}

    ``reference`` may be a list of texts. ``question`` and ``kind`` may be left out.

    Raises:
        ConfigError: the file cannot be read, or a line is not a pair.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompts {path} cannot be read: {error}.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _Row.model_validate(json.loads(line))
        except (json.JSONDecodeError, ValidationError) as error:
            raise ConfigError(
                f"{path}, line {number} is not a pair of prompts: {error}. Each line is a JSON object with 'reference' "
                "(a text or a list of texts) and 'target'. It may have 'question' and 'kind'."
            ) from error
        references = [row.reference] if isinstance(row.reference, str) else row.reference
        tail = f"\n\n{row.question}" if row.question else ""
        pairs.append(
            CalibrationPair(
                row.id or f"{path.stem}-{number}",
                tuple(text + tail for text in references),
                row.target + tail,
                row.kind,
            )
        )
    return pairs


def default_pairs(count: int, seed: int = 0) -> list[CalibrationPair]:
    """``count`` pairs that go through all kinds in rounds. Equal arguments and an equal Python give equal pairs."""
    passages = _passages()
    return [_pair(*divmod(number, len(_KINDS)), passages, seed) for number in range(count)]


def _pair(number: int, place: int, passages: Sequence[str], seed: int) -> CalibrationPair:
    """The pair of the kind at ``place`` in round ``number``."""
    kind, name = _KINDS[place], _KINDS[place].__name__.strip("_")
    # the first kinds keep their old random seeds, so that earlier measurements stay valid
    label = str(_FIRST_KINDS * number + place) if place < _FIRST_KINDS else f"{name}-{number}"
    rng = random.Random(f"calibration-{seed}-{label}")
    question, *others = rng.sample(QUESTIONS, len(QUESTIONS))
    if rng.random() < 0.5:
        others[0] = question  # the reference asks the same question
    long = number % _LONG_EVERY == _LONG_EVERY - 1
    references, target = kind(_Source(passages, rng, _LONG if long else _LENGTHS), rng)
    form = _plain
    if rng.random() < 0.5:
        form = _conversation if kind is _window else _message
    prompts = tuple(form(parts, rng.choice(others)) for parts in references)
    return CalibrationPair(f"{name}-{number}", prompts, form(target, question), name)


def _plain(parts: Sequence[str], question: str) -> Prompt:
    return f"{_joined(parts)}\n\nQuestion: {question}\nAnswer:"


def _message(parts: Sequence[str], question: str) -> Prompt:
    return [{"role": "user", "content": f"{_joined(parts)}\n\n{question}"}]


def _conversation(parts: Sequence[str], question: str) -> Prompt:
    """User and assistant say the parts in turn. The user is first and last, and ends with the question."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": part} for number, part in enumerate(parts)]
    last = f"{messages.pop()['content']}\n\n{question}" if len(parts) % 2 else question
    return [*messages, {"role": "user", "content": last}]


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts)


class _Source:
    """Draws passages, each only once."""

    def __init__(self, passages: Sequence[str], rng: random.Random, lengths: tuple[int, int]) -> None:
        self._order = iter(rng.sample(passages, len(passages)))
        low, high = lengths
        self._words = round(low * (high / low) ** rng.random())

    def take(self, count: int) -> list[str]:
        return [next(self._order) for _ in range(count)]

    def draw_text(self) -> list[str]:
        """The passages of a text with the pair's length, at least three."""
        passages = self.take(3)
        while sum(len(passage.split()) for passage in passages) < self._words:
            passages += self.take(1)
        return passages


_Parts = list[str]
"""A prompt's passages, in order."""


def _order(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Retrieved passages in another order, with some words replaced."""
    passages = source.draw_text()
    share = rng.choice((0, 0, 0.02, 0.05, 0.1))
    return [passages], [_replaced(_joined(rng.sample(passages, len(passages))), share, (1, 1), rng)]


def _sources(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Every section comes from a different prompt, where it stood among other passages."""
    passages = source.draw_text()
    size = -(-len(passages) // _MOST_SOURCES)
    sections = [_joined(passages[at : at + size]) for at in range(0, len(passages), size)]
    references = []
    for section in sections:
        context = source.take(rng.randint(1, 2))
        context.insert(rng.randint(0, len(context)), section)
        references.append(context)
    return references, rng.sample(sections, len(sections))


def _edition(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """A newer edition: some sentences are replaced or left out."""
    passages = source.draw_text()
    share = rng.uniform(0.03, 0.5)
    spare = iter(_SENTENCE.split(" ".join(source.take(12))))
    sentences = []
    for sentence in _SENTENCE.split(_joined(passages)):
        if rng.random() >= share:
            sentences.append(sentence)
        elif rng.random() < 0.5:
            sentences.append(next(spare, sentence))
    return [passages], [" ".join(sentences)]


def _rewrite(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """A paraphrase: other phrases in the same order."""
    passages = source.draw_text()
    return [passages], [_replaced(_joined(passages), rng.uniform(0.05, 0.6), _PHRASE_WORDS, rng)]


def _window(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """A history without its oldest part and with a new message that quotes it.

    Half of the pairs keep the first part, like a system message.
    """
    passages = source.draw_text()
    first = rng.randint(0, 1)
    gone = 2 * rng.randint(1, max(1, len(passages) // 6))  # whole turns
    left = [*passages[:first], *passages[first + gone :]]
    words = rng.choice(left).split()
    at = rng.randrange(len(words))
    quoted = " ".join(words[at : at + rng.randint(*_QUOTED_WORDS)])
    return [passages], [*left, f'{source.take(1)[0]}\nIt says above: "{quoted}"']


def _facts(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """The same notes with other numbers."""
    passages = source.draw_text()
    old, new = [_with_numbers(passages, random.Random(rng.random())) for _ in range(2)]
    return [old], new


def _overlap(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Passages retrieved for two questions: some are in both prompts."""
    passages = source.draw_text()
    shared = max(1, round(rng.uniform(*_SHARED) * len(passages)))
    before = [*rng.sample(passages, shared), *source.take(len(passages) - shared)]
    return [rng.sample(before, len(before))], rng.sample(passages, len(passages))


_KINDS: tuple[Callable[[_Source, random.Random], tuple[list[_Parts], _Parts]], ...] = (
    _order,
    _sources,
    _edition,
    _rewrite,
    _window,
    _facts,
    _overlap,
)
_FIRST_KINDS = 6


def _with_numbers(passages: Sequence[str], rng: random.Random) -> list[str]:
    return [
        f"{passage}\nEntry {number} was checked on {rng.randint(1, 28)} May {rng.randint(1950, 2030)} and has number "
        f"{rng.randint(1000, 9999)}."
        for number, passage in enumerate(passages, 1)
    ]


def _replaced(text: str, share: float, phrase: tuple[int, int], rng: random.Random) -> str:
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


def _passages() -> list[str]:
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
