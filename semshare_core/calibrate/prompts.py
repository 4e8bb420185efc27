"""Calibration prompts: pairs of prompts that resemble each other. The user brings them, or we make them.

Our text is Python's language reference (``pydoc_data.topics``), which is on every machine. Each pair imitates a kind of
work: retrieved passages in another order, passages from many prompts, a newer edition, a rewrite, a conversation
without its oldest part, changed facts, retrieved passages of which some are new, lists in another order. Each pair
draws how much differs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from semshare_core.calibrate.draft import Draft
from semshare_core.calibrate.lists import lists
from semshare_core.calibrate.text import QUESTIONS, SENTENCE, TextSource, read_passages, replaced, with_numbers
from semshare_core.errors import ConfigError
from semshare_core.prompt.encode import Prompt

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
    passages = read_passages()
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
    draft = kind(TextSource(passages, rng, _LONG if long else _LENGTHS), rng)
    form = _plain
    if rng.random() < 0.5:
        form = _conversation if kind is _window else _message
    prompts = tuple(form(parts, rng.choice(draft.others or others)) for parts in draft.references)
    return CalibrationPair(f"{name}-{number}", prompts, form(draft.target, draft.question or question), name)


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


def _order(source: TextSource, rng: random.Random) -> Draft:
    """Retrieved passages in another order, with some words replaced."""
    passages = source.draw_text()
    share = rng.choice((0, 0, 0.02, 0.05, 0.1))
    return Draft([passages], [replaced(_joined(rng.sample(passages, len(passages))), share, (1, 1), rng)])


def _sources(source: TextSource, rng: random.Random) -> Draft:
    """Every section comes from a different prompt, where it stood among other passages."""
    passages = source.draw_text()
    size = -(-len(passages) // _MOST_SOURCES)
    sections = [_joined(passages[at : at + size]) for at in range(0, len(passages), size)]
    references = []
    for section in sections:
        context = source.take(rng.randint(1, 2))
        context.insert(rng.randint(0, len(context)), section)
        references.append(context)
    return Draft(references, rng.sample(sections, len(sections)))


def _edition(source: TextSource, rng: random.Random) -> Draft:
    """A newer edition: some sentences are replaced or left out."""
    passages = source.draw_text()
    share = rng.uniform(0.03, 0.5)
    spare = iter(SENTENCE.split(" ".join(source.take(12))))
    sentences = []
    for sentence in SENTENCE.split(_joined(passages)):
        if rng.random() >= share:
            sentences.append(sentence)
        elif rng.random() < 0.5:
            sentences.append(next(spare, sentence))
    return Draft([passages], [" ".join(sentences)])


def _rewrite(source: TextSource, rng: random.Random) -> Draft:
    """A paraphrase: other phrases in the same order."""
    passages = source.draw_text()
    return Draft([passages], [replaced(_joined(passages), rng.uniform(0.05, 0.6), _PHRASE_WORDS, rng)])


def _window(source: TextSource, rng: random.Random) -> Draft:
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
    return Draft([passages], [*left, f'{source.take(1)[0]}\nIt says above: "{quoted}"'])


def _facts(source: TextSource, rng: random.Random) -> Draft:
    """The same notes with other numbers."""
    passages = source.draw_text()
    old, new = [with_numbers(passages, random.Random(rng.random())) for _ in range(2)]
    return Draft([old], new)


def _overlap(source: TextSource, rng: random.Random) -> Draft:
    """Passages retrieved for two questions: some are in both prompts."""
    passages = source.draw_text()
    shared = max(1, round(rng.uniform(*_SHARED) * len(passages)))
    before = [*rng.sample(passages, shared), *source.take(len(passages) - shared)]
    return Draft([rng.sample(before, len(before))], rng.sample(passages, len(passages)))


def _lists(source: TextSource, rng: random.Random) -> Draft:
    """A list in another order, and a question about the order."""
    return lists(rng)


_KINDS: tuple[Callable[[TextSource, random.Random], Draft], ...] = (
    _order,
    _sources,
    _edition,
    _rewrite,
    _window,
    _facts,
    _overlap,
    _lists,
)
_FIRST_KINDS = 6
