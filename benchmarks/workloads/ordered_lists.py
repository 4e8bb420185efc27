"""Lists whose order is the question: twenty lines that name somebody, read in one order, asked in another.

Every line is old text and stands in the prompt as it stood before. Only its place is new, and the place is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.workloads.ask import ask

Kind = Literal["residents", "ranking", "table", "log", "steps"]
Place = Literal["first", "last", "before", "after"]
Order = Literal["shuffled", "rotated", "few moved"]
"""How a list differs from the one before: any order, the end comes first, three lines stand elsewhere."""

LINES = 20
_FEW = 3
_NAMES = (
    "Alice Arthur Bella Boris Clara Conrad Diana Dennis Emma Edgar Fiona Felix Grace George Hanna Henry Irene Isaac "
    "Julia Jacob Karen Kevin Laura Louis Maria Martin Nora Nathan Olga Oscar Paula Peter Rosa Robert Sarah Simon "
    "Tina Thomas Vera Victor"
)
_CITIES = (
    "Lisbon Oslo Prague Dublin Vienna Athens Warsaw Madrid Rome Berlin Paris London Zurich Milan Porto Geneva Boston "
    "Chicago Denver Dallas Seattle Toronto Montreal Sydney Tokyo Osaka Delhi Cairo Lima Quito Havana Moscow Kiev Riga "
    "Turin Naples Lyon Bergen Cologne Hamburg"
)
NAMES, CITIES = tuple(_NAMES.split()), tuple(_CITIES.split())

LINE: dict[Kind, str] = {
    "residents": "{name} lives in {city}.",
    "ranking": "{number}. {name}, {city}",
    "table": "| {name} | {city} | {points} |",
    "log": "{hour:02d}:{minute:02d} {name} checked in at {city}.",
    "steps": "Step {number}: call {name} in {city}.",
}
"""``number``, ``hour`` and ``minute`` tell the place of the line, the others stay with the name when it moves."""
HEADING: dict[Kind, str] = {
    "residents": "The list:",
    "ranking": "The ranking, best first:",
    "table": "| name | city | points |\n| --- | --- | --- |",
    "log": "The log, oldest entry first:",
    "steps": "The plan, step by step:",
}
QUESTION: dict[Place, str] = {
    "first": "Who is named first above?",
    "last": "Who is named last above?",
    "before": "Who is named directly before {other}?",
    "after": "Who is named directly after {other}?",
}
CUE: dict[Place, str] = {
    "first": "The first name is",
    "last": "The last name is",
    "before": "The name directly before {other} is",
    "after": "The name directly after {other} is",
}


@dataclass(frozen=True)
class Asked:
    """A list in some order and a question about a place in it.

    Attributes:
        prompt: plain text; the answer's beginning is its end.
        gold: the name at that place.
        old: the name at that place in the order before; empty in the first order, and where it is the same name.
    """

    prompt: str
    gold: str
    old: str


@dataclass(frozen=True)
class OrderedList:
    """One list in several orders, one after the other."""

    id: str
    turns: tuple[Asked, ...]


def ordered_lists(
    *,
    count: int = 40,
    turns: int = 2,
    kinds: Sequence[Kind] = ("residents",),
    places: Sequence[Place] = ("first", "last"),
    orders: Sequence[Order] = ("shuffled",),
    lines: int = LINES,
    before: str = "",
    after: str = "",
    seed: int = 0,
) -> list[OrderedList]:
    """``count`` lists, each in ``turns`` orders; kinds, places and ways to reorder take turns.

    All turns of a list ask for the same place. ``before`` and ``after`` are texts around every list.

    Raises:
        ValueError: there are not so many names.
    """
    if not 3 <= lines <= len(NAMES):
        raise ValueError(f"a list has 3 to {len(NAMES)} lines, not {lines}")
    return [
        _list(
            f"ordered-lists-{seed}-{number}",
            kinds[number % len(kinds)],
            places[(number // len(kinds)) % len(places)],
            orders[number % len(orders)],
            turns,
            lines,
            (before, after),
        )
        for number in range(count)
    ]


def _list(
    name: str, kind: Kind, place: Place, how: Order, turns: int, lines: int, around: tuple[str, str]
) -> OrderedList:
    rng = random.Random(name)
    people = [
        (person, city, rng.randint(10, 99))
        for person, city in zip(rng.sample(NAMES, lines), rng.sample(CITIES, lines), strict=True)
    ]
    other = rng.choice(people)[0] if place in ("before", "after") else ""
    made: list[Asked] = []
    order = _order(people, other, place, "shuffled", rng)
    before, after = ([text] if text else [] for text in around)
    for _ in range(turns):
        order = _order(order, other, place, how, rng) if made else order
        gold = _at([person for person, _, _ in order], place, other)
        old = made[-1].gold if made and made[-1].gold != gold else ""
        listed = "\n".join((HEADING[kind], *_rows(kind, order)))
        text = "\n\n".join((*before, listed, *after))
        made.append(Asked(ask(text, QUESTION[place].format(other=other), CUE[place].format(other=other)), gold, old))
    return OrderedList(name, tuple(made))


def _order(
    people: Sequence[tuple[str, str, int]], other: str, place: Place, how: Order, rng: random.Random
) -> list[tuple[str, str, int]]:
    """Another order, in which somebody stands at the place that is asked for."""
    end = {"before": 0, "after": -1}.get(place)
    while True:
        order = _reordered(people, how, rng)
        if order != list(people) and (end is None or order[end][0] != other):
            return order


def _reordered(people: Sequence[tuple[str, str, int]], how: Order, rng: random.Random) -> list[tuple[str, str, int]]:
    order = list(people)
    if how == "shuffled":
        rng.shuffle(order)
    elif how == "rotated":
        at = rng.randrange(1, len(order))
        order = order[at:] + order[:at]
    else:
        for _ in range(_FEW):
            order.insert(rng.randrange(len(order)), order.pop(rng.randrange(len(order))))
    return order


def _at(names: Sequence[str], place: Place, other: str) -> str:
    if place == "first":
        return names[0]
    if place == "last":
        return names[-1]
    return names[names.index(other) + (-1 if place == "before" else 1)]


def _rows(kind: Kind, order: Sequence[tuple[str, str, int]]) -> list[str]:
    return [
        LINE[kind].format(
            number=place + 1, hour=8 + place // 4, minute=15 * (place % 4), name=name, city=city, points=points
        )
        for place, (name, city, points) in enumerate(order)
    ]
