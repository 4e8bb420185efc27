"""Answers that unchanged text derives from an edited fact: "the office is in the same city as the depot".

The depot's city is edited. The sentence about the office stays as it was, and its old rows were computed behind the old
city. Reuse that looks at changed tokens alone answers with the old one (arXiv 2609.17983).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.workloads.ask import ask
from benchmarks.workloads.codes import CITIES, ROOMS
from benchmarks.workloads.passages import CountTokens

DISTANCES = (0, 250, 1500)
"""Tokens between an edited fact and the text that depends on it."""
FACTS = (3, 2, 1)
"""Facts of a document: fewer make it shorter, for a model that mixes them up."""
_INTRODUCTION = "Notes of the facility office:"
_BASE = "The {base} is in {city}."
_DEPENDENT = "The {dependent} is in the same city as the {base}."
_BETWEEN_TOKENS = 20


@dataclass(frozen=True)
class DerivedQuestion:
    """One question to a document, as a prompt. ``gold`` follows from the new fact, ``old`` from the one before.

    Attributes:
        distance: tokens from the edited fact to the sentence that depends on it, as the counter counts them.
    """

    id: str
    prompt: str
    gold: str
    old: str
    distance: int


@dataclass(frozen=True)
class DerivedDocument:
    """A document before its facts were edited, and the questions to it after that."""

    id: str
    reference: str
    questions: tuple[DerivedQuestion, ...]


@dataclass(frozen=True)
class _Fact:
    base: str
    dependent: str
    city: str
    old_city: str


def derived_document(
    sentences: Sequence[str],
    count_tokens: CountTokens,
    *,
    distance: int,
    facts: int = FACTS[0],
    seed: str = "0",
) -> DerivedDocument:
    """``facts`` edited facts with a dependent sentence each, ``distance`` tokens of other ``sentences`` behind them."""
    name = f"derived-{seed}-{distance}"
    rng = random.Random(name)
    filler = _Filler([each for each in sentences if not any(city in each for city in CITIES)], count_tokens, rng)
    rooms, cities = rng.sample(ROOMS, 2 * facts), rng.sample(CITIES, 2 * facts)
    made = [_Fact(rooms[place], rooms[facts + place], cities[place], cities[facts + place]) for place in range(facts)]
    if distance:
        between, far = [filler.of(_BETWEEN_TOKENS) for _ in made], filler.of(distance - _BETWEEN_TOKENS)
        new, old = (_far(made, between, far, edited) for edited in (True, False))
    else:
        between = [filler.of(_BETWEEN_TOKENS) for _ in made]
        new, old = (_near(made, between, edited) for edited in (True, False))
    questions = tuple(_question(name, new, fact, count_tokens) for fact in made)
    return DerivedDocument(name, _asked(old, made[0]), questions)


class _Filler:
    """Sentences that say nothing about the facts, none of them twice."""

    def __init__(self, sentences: Sequence[str], count_tokens: CountTokens, rng: random.Random) -> None:
        self._left = rng.sample(sentences, len(sentences))
        self._count = count_tokens

    def of(self, tokens: int) -> str:
        """Whole sentences of about ``tokens`` tokens, at least one."""
        taken: list[str] = []
        while self._left and (not taken or self._count(" ".join(taken)) < tokens):
            taken.append(self._left.pop())
        return " ".join(taken)


def _near(facts: Sequence[_Fact], between: Sequence[str], edited: bool) -> str:
    parts = [_INTRODUCTION]
    for fact, filler in zip(facts, between, strict=True):
        parts += [filler, f"{_base(fact, edited)} {_dependent(fact)}"]
    return "\n\n".join(parts)


def _far(facts: Sequence[_Fact], between: Sequence[str], far: str, edited: bool) -> str:
    parts = [_INTRODUCTION]
    for fact, filler in zip(facts, between, strict=True):
        parts += [filler, _base(fact, edited)]
    return "\n\n".join([*parts, far, "\n".join(_dependent(fact) for fact in facts)])


def _base(fact: _Fact, edited: bool) -> str:
    return _BASE.format(base=fact.base, city=fact.city if edited else fact.old_city)


def _dependent(fact: _Fact) -> str:
    return _DEPENDENT.format(dependent=fact.dependent, base=fact.base)


def _question(name: str, text: str, fact: _Fact, count_tokens: CountTokens) -> DerivedQuestion:
    base, dependent = _base(fact, True), _dependent(fact)
    between = text.split(base, 1)[1].split(dependent, 1)[0]
    return DerivedQuestion(
        id=f"{name}-{fact.dependent.replace(' ', '-')}",
        prompt=_asked(text, fact),
        gold=fact.city,
        old=fact.old_city,
        distance=count_tokens(between) if between.strip() else 0,
    )


def _asked(text: str, fact: _Fact) -> str:
    return ask(text, f"In which city is the {fact.dependent}?", f"The {fact.dependent} is in")
