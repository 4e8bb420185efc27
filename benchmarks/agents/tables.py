"""The items as Markdown tables: a row an edit, a row a level, a row a distance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median

from benchmarks.agents import promises, turns
from benchmarks.agents.estimates import share
from benchmarks.agents.figures import ASKED, beyond, by_edit, late, part_of
from benchmarks.agents.item import BACK_TO_BACK, NOISE_FLOOR, PREFIX_CACHE, AgentItem, TurnItem
from benchmarks.agents.plan import IDLE, SHORT_IDLE
from benchmarks.agents.turns import idle_mode
from benchmarks.report.tables import NOTHING, markdown
from benchmarks.workloads.agent_chains import EDITS
from semshare_core.budget.levels import BOUNDS

MODES = (BACK_TO_BACK, PREFIX_CACHE, idle_mode(IDLE), idle_mode(SHORT_IDLE))
_SYSTEMS = (*BOUNDS, promises.WITHOUT, NOISE_FLOOR)


def turn_items(items: Sequence[AgentItem]) -> list[TurnItem]:
    """Those that are turns of chains."""
    return [item for item in items if isinstance(item, TurnItem)]


def edits_table(items: Sequence[TurnItem]) -> str:
    """A row for each edit and mode, from the third turn on."""
    rows = []
    for edit, found in by_edit(late(part_of(items, turns.PART))).items():
        for mode in MODES:
            several = [item for item in found if item.mode == mode]
            if several:
                speeds = [item.speed for item in several]
                rows.append(
                    [
                        edit,
                        EDITS.get(edit, ""),
                        mode,
                        f"{median(speeds):.1f}×",
                        f"{min(speeds):.1f}×",
                        f"{mean(item.promised_kl for item in several):.4f}",
                        f"{max(item.promised_kl for item in several):.4f}",
                        f"{mean(mean(item.agree) for item in several):.3f}",
                        f"{mean(item.old_share for item in several):.1%}",
                        f"{max(item.old_share for item in several):.0%}",
                    ]
                )
    head = ["edit", "what changes", "turns", "speed ↑", "slowest ↑", "KL ↓", "largest KL ↓", "agreement ↑"]
    return markdown([*head, "old text computed ↓", "at most ↓"], rows)


def turns_table(items: Sequence[TurnItem], told: Callable[[TurnItem], str]) -> str:
    """A row for each edit and mode, a column a turn."""
    found = part_of(items, turns.PART)
    numbers = sorted({item.turn for item in found})
    rows = [
        [edit, mode, *(_cell([item for item in several if item.turn == number], told) for number in numbers)]
        for edit, group in by_edit(found).items()
        for mode in MODES
        if (several := [item for item in group if item.mode == mode])
    ]
    return markdown(["edit", "turns", *(f"turn {number}" for number in numbers)], rows)


def quality_table(items: Sequence[TurnItem]) -> str:
    """A row a system on the short chains, the noise floor last; shares on the turns that ask for it."""
    found = part_of(items, promises.PART)
    rows = []
    for system in _SYSTEMS:
        several = [item for item in found if item.system == system]
        if several:
            held = [_held([item for item in several if item.ask == kind]) for kind in (*ASKED, "place")]
            kl, agree = mean(item.promised_kl for item in several), mean(mean(item.agree) for item in several)
            rows.append([system, str(len(several)), f"{kl:.4f}", f"{agree:.3f}", *held])
    return markdown(["system", "turns", "KL ↓", "agreement ↑", *ASKED.values(), "place in a list"], rows)


def promises_table(items: Sequence[TurnItem]) -> str:
    """A row a level: the share of approximate calls beyond its bound, and of those at each position of a chain."""
    found = [item for item in part_of(items, promises.PART) if item.approximate]
    numbers = sorted({item.turn for item in found})
    rows = []
    for level, bound in BOUNDS.items():
        calls = [item for item in found if item.system == level]
        if calls:
            shares = [share([item for item in calls if item.turn == number], beyond(level)) for number in numbers]
            whole = share(calls, beyond(level))
            rows.append([level, f"{bound.kl:g}", whole.told(), *(f"{each.hits} of {each.count}" for each in shares)])
    return markdown(["level", "bound", "beyond it", *(f"turn {number}" for number in numbers)], rows)


def _held(items: Sequence[TurnItem]) -> str:
    judged = [item for item in items if item.held is not None]
    return f"{sum(bool(item.held) for item in judged)} of {len(judged)}" if judged else NOTHING


def _cell(items: Sequence[TurnItem], told: Callable[[TurnItem], str]) -> str:
    return " / ".join(told(item) for item in items) or NOTHING
