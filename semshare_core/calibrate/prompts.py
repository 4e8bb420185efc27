"""What a model is calibrated on where the user brings no prompts: the ways in which one prompt resembles another.

The text is Python's own language reference (``pydoc_data.topics``), which is on every machine. Each pair imitates a
kind of work: retrieved passages in another order, passages that come from many prompts, a newer edition, a rewrite, a
conversation whose oldest part was dropped, facts that changed, retrieved passages some of which are new. How much
differs is drawn anew for every pair.
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
_LONG = (1200, 4200)  # of every so many turns of all kinds one is long
_LONG_EVERY = 5
_MOST_SOURCES = 8
_PHRASE_WORDS = (1, 5)
_QUOTED_WORDS = (4, 20)
_SHARED = (0.3, 0.95)  # of the passages


@dataclass(frozen=True)
class CalibrationPair:
    """A target prompt and the prompts that came before it; ``kind`` of work, in each of which promises are to hold."""

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
    """Pairs of a JSONL file: ``reference`` (a text, or several), ``target`` and, if both end with it, ``question``.

    Raises:
        ConfigError: the file cannot be read, or a line of it is no such row.
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
                f"{path}, line {number} is no pair of prompts: {error}. Each line is a JSON object with 'reference' (a "
                "text or a list of texts) and 'target', and may have 'question' and 'kind'."
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
    """``count`` pairs, the kinds in turn; the same for the same arguments and the same Python."""
    passages = _passages()
    return [_pair(*divmod(number, len(_KINDS)), passages, seed) for number in range(count)]


def _pair(turn: int, place: int, passages: Sequence[str], seed: int) -> CalibrationPair:
    """That of the kind at ``place``, in one turn of all kinds."""
    kind, name = _KINDS[place], _KINDS[place].__name__.strip("_")
    # the first kinds are numbered as before there were more, so that what was measured of them stays valid
    drawn_for = str(_FIRST_KINDS * turn + place) if place < _FIRST_KINDS else f"{name}-{turn}"
    rng = random.Random(f"calibration-{seed}-{drawn_for}")
    asked, *others = rng.sample(QUESTIONS, len(QUESTIONS))
    if rng.random() < 0.5:
        others[0] = asked  # the same question again
    long = turn % _LONG_EVERY == _LONG_EVERY - 1
    references, target = kind(_Source(passages, rng, _LONG if long else _LENGTHS), rng)
    form = _plain
    if rng.random() < 0.5:
        form = _conversation if kind is _window else _message
    made = tuple(form(parts, rng.choice(others)) for parts in references)
    return CalibrationPair(f"{name}-{turn}", made, form(target, asked), name)


def _plain(parts: Sequence[str], question: str) -> Prompt:
    return f"{_joined(parts)}\n\nQuestion: {question}\nAnswer:"


def _message(parts: Sequence[str], question: str) -> Prompt:
    return [{"role": "user", "content": f"{_joined(parts)}\n\n{question}"}]


def _conversation(parts: Sequence[str], question: str) -> Prompt:
    """The parts told by user and assistant in turn; the user, who comes first and last, asks."""
    roles = ("user", "assistant")
    told = [{"role": roles[number % 2], "content": part} for number, part in enumerate(parts)]
    asked = f"{told.pop()['content']}\n\n{question}" if len(parts) % 2 else question
    return [*told, {"role": "user", "content": asked}]


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(parts)


class _Source:
    """Passages that are drawn without putting back."""

    def __init__(self, passages: Sequence[str], rng: random.Random, lengths: tuple[int, int]) -> None:
        self._order = iter(rng.sample(passages, len(passages)))
        low, high = lengths
        self._words = round(low * (high / low) ** rng.random())

    def take(self, count: int) -> list[str]:
        return [next(self._order) for _ in range(count)]

    def text(self) -> list[str]:
        """As many passages as the pair's length asks for, at least three."""
        taken = self.take(3)
        while sum(len(passage.split()) for passage in taken) < self._words:
            taken += self.take(1)
        return taken


_Parts = list[str]
"""A prompt's passages, in order."""


def _order(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Retrieved passages in another order, some words of them replaced."""
    held = source.text()
    share = rng.choice((0, 0, 0.02, 0.05, 0.1))
    return [held], [_replaced(_joined(rng.sample(held, len(held))), share, (1, 1), rng)]


def _sources(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Every piece comes from another prompt, where it stood among others."""
    held = source.text()
    each = -(-len(held) // _MOST_SOURCES)
    pieces = [_joined(held[at : at + each]) for at in range(0, len(held), each)]
    references = []
    for piece in pieces:
        context = source.take(rng.randint(1, 2))
        context.insert(rng.randint(0, len(context)), piece)
        references.append(context)
    return references, rng.sample(pieces, len(pieces))


def _edition(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """A newer edition: some sentences replaced or gone, in place."""
    held = source.text()
    share = rng.uniform(0.03, 0.5)
    spare = iter(_SENTENCE.split(" ".join(source.take(12))))
    kept = []
    for sentence in _SENTENCE.split(_joined(held)):
        if rng.random() >= share:
            kept.append(sentence)
        elif rng.random() < 0.5:
            kept.append(next(spare, sentence))
    return [held], [" ".join(kept)]


def _rewrite(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Other phrases in the same order, as in a paraphrase."""
    held = source.text()
    return [held], [_replaced(_joined(held), rng.uniform(0.05, 0.6), _PHRASE_WORDS, rng)]


def _window(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """A history whose oldest part was dropped, and to which something was added that quotes what is left.

    Half of them keep what stands before the oldest part, as a system message does.
    """
    held = source.text()
    first = rng.randint(0, 1)
    gone = 2 * rng.randint(1, max(1, len(held) // 6))  # whole turns
    left = [*held[:first], *held[first + gone :]]
    words = rng.choice(left).split()
    at = rng.randrange(len(words))
    quoted = " ".join(words[at : at + rng.randint(*_QUOTED_WORDS)])
    return [held], [*left, f'{source.take(1)[0]}\nIt says above: "{quoted}"']


def _facts(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """The same notes with other numbers in them."""
    held = source.text()
    old, new = [_with_numbers(held, random.Random(rng.random())) for _ in range(2)]
    return [old], new


def _overlap(source: _Source, rng: random.Random) -> tuple[list[_Parts], _Parts]:
    """Retrieved for two questions: some passages are the same, the others are each prompt's own."""
    held = source.text()
    shared = max(1, round(rng.uniform(*_SHARED) * len(held)))
    before = [*rng.sample(held, shared), *source.take(len(held) - shared)]
    return [rng.sample(before, len(before))], rng.sample(held, len(held))


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
    """About ``share`` of the words replaced by others of the text, in phrases of so many words (least, most)."""
    stock = sorted(set(_WORD.findall(text.lower())))
    mean = sum(phrase) / 2
    begin = share / (share + mean * (1 - share))  # so that phrases of this mean length make up that share
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
    """Prose of the language reference, cut at its paragraphs into ``_PASSAGE_WORDS`` words each."""
    from pydoc_data import topics

    low, high = _PASSAGE_WORDS
    made = []
    for text in topics.topics.values():
        gathered: list[str] = []
        for paragraph in text.split("\n\n"):
            words = len(_WORD.findall(paragraph))
            if words < 8 or words > high:  # headings, rules and the long tables
                continue
            gathered.append(_SPACE.sub(" ", paragraph).strip())
            if sum(len(part.split()) for part in gathered) >= low:
                made.append(" ".join(gathered))
                gathered = []
    return made
