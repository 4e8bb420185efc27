"""Facts that must not leak: notes with eight codes, asked for one; the reference has other codes in the same places."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.case import Case
from benchmarks.workloads.passages import CountTokens, cut_to_tokens

FACTS = 8
KINDS = (
    "access code",
    "alarm PIN",
    "phone extension",
    "locker number",
    "safe combination",
    "key number",
    "gate code",
    "meter number",
)
"""Names far enough apart for the small demo model: with eight kinds of code it mixed a third of them up."""
ROOMS = (
    "archive room",
    "server room",
    "print shop",
    "boat house",
    "reading hall",
    "north garage",
    "seed store",
    "tool shed",
    "wine cellar",
    "music studio",
    "mail room",
    "map library",
    "cold store",
    "paint shop",
    "guest house",
    "clock tower",
)
CITIES = (
    "Lisbon",
    "Oslo",
    "Prague",
    "Dublin",
    "Vienna",
    "Athens",
    "Warsaw",
    "Madrid",
    "Rome",
    "Berlin",
    "Paris",
    "London",
    "Zurich",
    "Milan",
    "Porto",
    "Geneva",
)
WORDINGS = (
    "The {kind} of the {room} in {city} is {code}.",
    "As agreed with the caretaker, the {kind} of the {room} in {city} is {code}.",
    "Please note that the {kind} of the {room} in {city} is {code}.",
    "Since last week, the {kind} of the {room} in {city} is {code}.",
    "For visitors, the {kind} of the {room} in {city} is {code}.",
    "According to the porter, the {kind} of the {room} in {city} is {code}.",
)
_INTRODUCTION = "Notes of the facility office:\n\n"
_INSTRUCTION = "Answer from the notes above."
_CODE = re.compile(r"(?<!\d)\d{4}(?!\d)")
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class CodeLookup:
    """Two prompts that differ only in their codes: `gold` stands in the target alone, `old` in the reference alone."""

    id: str
    prompt_reference: str
    prompt_target: str
    gold: str
    old: str


@dataclass(frozen=True)
class _Fact:
    wording: str
    kind: str
    room: str
    city: str

    @property
    def name(self) -> str:
        return f"{self.kind} of the {self.room} in {self.city}"

    def sentence(self, code: str) -> str:
        return self.wording.format(kind=self.kind, room=self.room, city=self.city, code=code)


def code_lookups(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    count: int = 100,
    seed: int = 0,
    filler_tokens: tuple[int, int] = (25, 55),
) -> list[CodeLookup]:
    """`count` look-ups among sentences of the given texts; with the default filler, prompts of 400 to 800 tokens."""
    filler = [line for text in texts for line in text.split("\n") if len(line.split()) > 4 and not _DIGIT.search(line)]
    if len(filler) <= FACTS:
        raise ValueError(f"the source texts have {len(filler)} lines of filler without digits, {FACTS + 1} are needed")
    return [_lookup(f"codes-{seed}-{number}", filler, count_tokens, filler_tokens) for number in range(count)]


def answered_code(text: str) -> str | None:
    """The first four-digit number in an answer."""
    found = _CODE.search(text)
    return found.group() if found else None


def code_cases(made: Iterable[CodeLookup]) -> list[Case]:
    """The look-ups as cases: gold is the target's code, old the reference's."""
    return [
        Case(each.id, "codes", (each.prompt_reference,), each.prompt_target, (each.gold,), (each.old,)) for each in made
    ]


def _lookup(name: str, filler: Sequence[str], count_tokens: CountTokens, filler_tokens: tuple[int, int]) -> CodeLookup:
    rng = random.Random(name)
    facts = [
        _Fact(rng.choice(WORDINGS), kind, room, city)
        for kind, room, city in zip(
            rng.sample(KINDS, FACTS), rng.sample(ROOMS, FACTS), rng.sample(CITIES, FACTS), strict=True
        )
    ]
    codes = [str(code) for code in rng.sample(range(1000, 10000), 2 * FACTS)]
    old_codes, new_codes = codes[:FACTS], codes[FACTS:]
    between = [_filler(filler, count_tokens, rng.randint(*filler_tokens), rng) for _ in facts]
    asked = rng.randrange(FACTS)
    return CodeLookup(
        id=name,
        prompt_reference=_prompt(facts, old_codes, between, facts[asked]),
        prompt_target=_prompt(facts, new_codes, between, facts[asked]),
        gold=new_codes[asked],
        old=old_codes[asked],
    )


def _filler(lines: Sequence[str], count_tokens: CountTokens, tokens: int, rng: random.Random) -> str:
    """Consecutive lines of real text, about `tokens` tokens."""
    start = rng.randrange(len(lines))
    gathered = ""
    for step in range(len(lines)):
        gathered = f"{gathered} {lines[(start + step) % len(lines)]}".strip()
        if count_tokens(gathered) >= tokens:
            break
    return cut_to_tokens(gathered, tokens, count_tokens)


def _prompt(facts: Sequence[_Fact], codes: Sequence[str], between: Sequence[str], asked: _Fact) -> str:
    notes = "\n\n".join(
        f"{filler}\n{fact.sentence(code)}" for filler, fact, code in zip(between, facts, codes, strict=True)
    )
    return f"{_INTRODUCTION}{notes}\n\n{_INSTRUCTION}\nQuestion: What is the {asked.name}?\nAnswer: The {asked.name} is"
