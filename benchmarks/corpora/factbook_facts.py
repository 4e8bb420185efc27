"""Questions about the newer edition of a Factbook profile, with the answers of both."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from benchmarks.case import answers
from benchmarks.corpora.factbook import Editions
from benchmarks.corpora.row import Row

SPELLED_ALIKE = 0.75
"""Names whose letters are that similar (difflib's ratio) are taken for two spellings of one."""

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_AFTER_PLACE = re.compile(r"[;,:(]| -?\d| on ")
_ASIDE = re.compile(r"\([^)]*\)")
_NOT_NAMES = {"US", "UN", "EU", "UK", "NA", "OIC", "DC"}


@dataclass(frozen=True)
class Fact:
    """Something asked of every country: the field that tells it, the question, and how its text becomes an answer."""

    name: str
    field: str
    question: str
    answer: Callable[[str], str]


@dataclass(frozen=True)
class FactQuestion:
    """A question about ``country``; ``old`` is the old edition's answer where the new text does not hold it."""

    id: str
    country: Editions
    field: str
    question: str
    gold: str
    old: str

    @property
    def cue(self) -> str:
        """How the line of the profile begins that tells the answer."""
        return self.field.partition(": ")[2] + ":"


def place(said: str) -> str:
    """What stands before the first remark, number or range of mountains; empty for a place without a name."""
    name = _AFTER_PLACE.split(said)[0].strip()
    return "" if name.startswith("unnamed") else name


def amount(said: str) -> str:
    """The first number; empty where it is nought, as the coast of a landlocked country is."""
    found = _NUMBER.search(said)
    return found.group().rstrip(",") if found and found.group() != "0" else ""


def person(said: str) -> str:
    """The first name in capitals, which the Factbook gives to the part by which a person is called."""
    for part in _ASIDE.sub("", said).split(";"):
        run: list[str] = []
        for word in re.findall(r"[^\s,]+", part):
            letters = "".join(filter(str.isalpha, word))
            if len(letters) > 1 and word not in _NOT_NAMES and letters.isupper():
                run.append(word)
            elif run:
                break
        if run:
            return " ".join(run)
    return ""


FACTS = (
    Fact("capital", "Government: Capital: name", "What is the capital of {name}?", place),
    Fact(
        "chief of state",
        "Government: Executive branch: chief of state",
        "Who is the chief of state of {name}?",
        person,
    ),
    Fact(
        "head of government",
        "Government: Executive branch: head of government",
        "Who is the head of government of {name}?",
        person,
    ),
    Fact("area", "Geography: Area: total", "What is the total area of {name} in square kilometers?", amount),
    Fact("coastline", "Geography: Coastline", "How long is the coastline of {name} in kilometers?", amount),
    Fact(
        "borders",
        "Geography: Land boundaries: total",
        "How long are the land boundaries of {name} in total, in kilometers?",
        amount,
    ),
    Fact("highest point", "Geography: Elevation: highest point", "What is the highest point of {name}?", place),
    Fact(
        "mission in the US",
        "Government: Diplomatic representation in the US: chief of mission",
        "Who is the chief of mission of {name} in the US?",
        person,
    ),
    Fact(
        "mission of the US",
        "Government: Diplomatic representation from the US: chief of mission",
        "Who is the chief of mission of the US in {name}?",
        person,
    ),
)


def fact_questions(countries: Sequence[Editions], facts: Sequence[Fact] = FACTS) -> list[FactQuestion]:
    """What both editions answer: country by country, fact by fact."""
    return [found for country in countries for fact in facts if (found := _question(country, fact)) is not None]


def rows(questions: Sequence[FactQuestion]) -> list[Row]:
    """The questions as corpus rows: reference = the old edition's profile, target = the new one's."""
    return [
        Row(
            id=f"factbook-{asked.id}",
            reference=asked.country.old.text,
            target=asked.country.new.text,
            question=asked.question,
            gold=asked.gold,
            old=asked.old,
        )
        for asked in questions
    ]


def _question(country: Editions, fact: Fact) -> FactQuestion | None:
    old, new = (fact.answer(profile.fields.get(fact.field, "")) for profile in (country.old, country.new))
    if not (old and new):
        return None
    question = fact.question.format(name=country.new.name)
    told = same_answer(old, new) or answers(f"{country.new.text}\n{question}", [old])
    name = f"{country.code}-{fact.name.replace(' ', '-')}"
    return FactQuestion(name, country, fact.field, question, new, "" if told else old)


def same_answer(old: str, new: str) -> bool:
    """Whether two answers say the same: equal numbers, or one name in two spellings (Brasilia, Brasília)."""
    if _NUMBER.search(old) or _NUMBER.search(new):
        return old.replace(",", "") == new.replace(",", "")
    before, now = _letters(old), _letters(new)
    return before in now or now in before or SequenceMatcher(None, before, now, autojunk=False).ratio() >= SPELLED_ALIKE


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", name.casefold())))
