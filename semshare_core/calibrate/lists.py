"""Lists whose order is the question: lines in another order, and "who is first", "what comes after", "how many".

Each line is short, so that nearly every row that moves has other lines before it. Records have lines of 25 to 60 tokens
in one wording, whose order disturbs answers most.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from semshare_core.calibrate.draft import Draft

_NAMES = (
    *("Anna", "Bjarne", "Carla", "Dmitri", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaja", "Lars", "Mira"),
    *("Nils", "Olga", "Pavel", "Quinn", "Rosa", "Stefan", "Tara", "Ulrik", "Vera", "Wanda", "Xavier", "Yara", "Zeno"),
    *("Amir", "Berit", "Cosmo", "Dora", "Emil", "Freja", "Gustav", "Hanna", "Ivan", "Jutta", "Kurt", "Lena", "Marco"),
    *("Nadia", "Oskar", "Paula", "Rafael", "Signe", "Tomas", "Ursula", "Viktor", "Wilma"),
)
_CITIES = (
    *("Bergen", "Lisbon", "Oslo", "Porto", "Graz", "Turin", "Lyon", "Ghent", "Cork", "Leeds", "Malmo", "Aarhus"),
    *("Tartu", "Riga", "Krakow", "Brno", "Split", "Patras", "Izmir", "Haifa", "Oran", "Dakar", "Quito", "Lima"),
)
_TRADES = ("baker", "nurse", "pilot", "tailor", "judge", "farmer", "welder", "singer", "clerk", "miner", "painter")
_DEEDS = (
    *("fill the tank", "close the valve", "check the fuse", "oil the chain", "sweep the floor", "sign the form"),
    *(
        "weigh the parcel",
        "lock the gate",
        "call the office",
        "print the label",
        "clean the filter",
        "count the crates",
    ),
    *("load the van", "start the pump", "read the meter", "warm the oven", "cut the wire", "seal the box"),
    *("test the alarm", "open the hatch", "fold the sheets", "empty the bin", "charge the lamp", "move the ladder"),
)
_SERVICES = ("mail", "index", "backup", "login", "search", "report", "cache", "proxy")
_EVENTS = ("started", "stopped", "failed", "was restarted", "timed out", "recovered")
_HEADS = (
    "Here is the list.",
    "The following lines are in order. Read them carefully and do not change their order.",
    "You get a list and a question about it. The order of the lines matters: the first line comes first.",
)
_LINES = (10, 44)
_RECORDS = (6, 24)
_WORDINGS = (
    "{name} lives in {city}, works there as a {trade}, and has kept the key since {year}.",
    "Since {year} the {trade} {name} has come from {city} every other week, to {deed} and to {other} before the others "
    "arrive.",
    "The {trade} who wrote to us in {year} is {name}; the letter came from {city}, said that somebody has to {deed}, "
    "asked who will {other}, and was answered within three days.",
)


def lists(rng: random.Random) -> Draft:
    """A list in another order. The question asks about order, neighbours or counts."""
    kind = rng.choice((_homes, _ranking, _table, _steps, _log, _records, _records))
    least, most = _RECORDS if kind is _records else _LINES
    count = round(least * (most / least) ** rng.random())
    entries, numbered, value = kind(rng, count)
    moved = _reordered(entries, rng)
    head = rng.choice(_HEADS)

    def parts(items: list[tuple[str, str]]) -> list[str]:
        lines = [f"{place}. {line}" if numbered else line for place, (_, line) in enumerate(items, 1)]
        return [head, "\n".join(lines)]

    question = _question(moved, value, rng)
    asked = question if rng.random() < 0.5 else _question(entries, value, rng)
    return Draft([parts(entries)], parts(moved), question, (asked,))


_Entries = list[tuple[str, str]]
"""The subject of each line, and the line."""


def _homes(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    named = [(name, rng.choice(_CITIES)) for name in rng.sample(_NAMES, count)]
    return [(name, f"{name} lives in {city}.") for name, city in named], False, f"live in {named[0][1]}"


def _ranking(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    points = sorted((rng.randint(20, 99) for _ in range(count)), reverse=True)
    named = zip(rng.sample(_NAMES, count), points, strict=True)
    return [(name, f"{name}, {score} points") for name, score in named], True, "have more than 60 points"


def _table(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    rows = [(name, rng.choice(_CITIES), rng.choice(_TRADES)) for name in rng.sample(_NAMES, count)]
    lines = [(name, f"| {name} | {city} | {trade} | {rng.randint(1950, 2005)} |") for name, city, trade in rows]
    return lines, False, f"are {rows[0][2]}s"


def _steps(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    deeds = [(rng.choice(_NAMES), deed) for deed in rng.sample(_DEEDS, min(count, len(_DEEDS)))]
    return (
        [(f'"{deed}"', f"{name}: {deed}.") for name, deed in deeds],
        rng.random() < 0.5,
        "are about a tank",
    )


def _log(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    second, entries = rng.randint(0, 40_000), []
    for number in rng.sample(range(100, 999), count):
        second += rng.randint(1, 90)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        entries.append((f"job {number}", f"{clock} {rng.choice(_SERVICES)} job {number} {rng.choice(_EVENTS)}"))
    return entries, False, "failed"


def _records(rng: random.Random, count: int) -> tuple[_Entries, bool, str]:
    wording, entries = rng.choice(_WORDINGS), []
    for name in rng.sample(_NAMES, count):
        city, trade, year = rng.choice(_CITIES), rng.choice(_TRADES), rng.randint(1950, 2025)
        deed, other = rng.sample(_DEEDS, 2)
        line = wording.format(name=name, city=city, trade=trade, year=year, deed=deed, other=other)
        entries.append((name, line))
    return entries, False, f"come from {rng.choice(_CITIES)}"


def _reordered(entries: _Entries, rng: random.Random) -> _Entries:
    """All lines in any order, the other way round, some lines exchanged, or the list begun at another line."""

    def exchanged(items: _Entries) -> _Entries:
        items = list(items)
        for _ in range(rng.randint(1, 4)):
            one, two = rng.sample(range(len(items)), 2)
            items[one], items[two] = items[two], items[one]
        return items

    def turned(items: _Entries) -> _Entries:
        at = rng.randrange(1, len(items))
        return [*items[at:], *items[:at]]

    ways: tuple[Callable[[_Entries], _Entries], ...] = (
        lambda items: rng.sample(items, len(items)),
        lambda items: items[::-1],
        exchanged,
        turned,
    )
    return rng.choice(ways)(entries)


def _question(items: _Entries, value: str, rng: random.Random) -> str:
    subject, later = (items[at][0] for at in sorted(rng.sample(range(len(items)), 2)))
    return rng.choice(
        (
            "Which line is the first of the list, and which is the last?",
            "Who or what is named first, and who or what is named last?",
            f"What comes directly after {subject}?",
            f"What comes directly before {later}?",
            f"Which comes earlier in the list, {later} or {subject}?",
            f"How many lines stand before {later}?",
            f"How many of them {value}?",
            "Repeat the first three lines of the list in order.",
            "Name the last three entries, the very last one first.",
            "Repeat the list.",
            "In one sentence, what is the list about?",
        )
    )
