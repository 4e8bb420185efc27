"""Which entry is healed next."""

from __future__ import annotations

import weakref

from pooled import entry, text
from semshare_core.model.autocast import OFF
from semshare_core.pool import Entry
from semshare_core.quality.healing_order import Candidate, HealingOrder
from semshare_core.report import ReuseReport

_KEPT: list[Entry] = []


def candidate(number: int, namespace: str = "here", rows: int = 40) -> Candidate:
    kept = entry(text(number), namespace)
    _KEPT.append(kept)
    report = ReuseReport(outcome="semantic", level="fast", prompt_tokens=40)
    return Candidate(weakref.ref(kept), weakref.ref(report), report.id, namespace, str(number), 40, rows, OFF)


def turns(order: HealingOrder, count: int) -> list[str]:
    """The next ones; each is healed."""
    taken = []
    for _ in range(count):
        best = order.best(lambda each: True)
        assert best is not None
        order.charge(best)
        order.remove(best)
        taken.append(f"{best.namespace} {best.name}")
    return taken


def test_the_newest_comes_first() -> None:
    order = HealingOrder()
    for number in (1, 2, 3):
        order.add(candidate(number))
    assert turns(order, 3) == ["here 3", "here 2", "here 1"]
    assert order.best(lambda each: True) is None


def test_one_that_was_continued_waits_until_conversations_part_there() -> None:
    order = HealingOrder()
    for number in (1, 2, 3):
        order.add(candidate(number))
    order.drawn_on("here", {"3": 40, "2": 20})  # of 2 no more than half was taken
    assert turns(order, 2) == ["here 2", "here 1"]
    assert len(order) == 1
    assert not order.open
    order.drawn_on("there", {"3": 40})
    assert not order.open
    order.add(candidate(4))
    order.drawn_on("here", {"3": 40})
    assert turns(order, 2) == ["here 4", "here 3"], "behind what is new"


def test_a_busy_namespace_does_not_starve_others() -> None:
    order = HealingOrder()
    for number in (1, 2):
        order.add(candidate(number, "calm"))
    for number in range(3, 9):
        order.add(candidate(number, "busy"))
    assert turns(order, 4) == ["busy 8", "calm 2", "busy 7", "calm 1"]


def test_shares_are_of_rows_and_not_of_prompts() -> None:
    order = HealingOrder()
    for number in range(1, 9):
        order.add(candidate(number, "short", rows=10))
    for number in (9, 10):
        order.add(candidate(number, "long", rows=40))
    taken = turns(order, 8)
    assert [each.split()[0] for each in taken].count("long") == 2
    assert taken.index("long 9") > 3


def test_an_idle_namespace_saves_nothing_up() -> None:
    order = HealingOrder()
    for number in range(1, 11):
        order.add(candidate(number, "busy"))
    turns(order, 5)
    for number in range(11, 15):
        order.add(candidate(number, "late"))
    taken = turns(order, 4)
    assert [each.split()[0] for each in taken].count("late") in (2, 3), "in turns, and not all of its own first"


def test_what_does_not_fit_is_passed_over_and_stays() -> None:
    order = HealingOrder()
    for number in (1, 2):
        order.add(candidate(number))
    best = order.best(lambda each: each.name == "1")
    assert best is not None
    assert best.name == "1"
    best.claimed = True
    assert [each.name for each in order.open] == ["2"]
    assert order.add(replacing := candidate(2)) is not None
    assert replacing in order
