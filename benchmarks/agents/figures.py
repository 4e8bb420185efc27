"""What must hold, computed from the items; what was not measured is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median

import numpy as np

from benchmarks.agents import anchor, promises, turns, uncalibrated
from benchmarks.agents.estimates import compared, share
from benchmarks.agents.item import BACK_TO_BACK, NOISE_FLOOR, PREFIX_CACHE, AgentItem, ArrivalItem, FactItem, TurnItem
from benchmarks.agents.plan import IDLE, LEVEL
from benchmarks.agents.turns import STABLE, idle_mode
from benchmarks.sections.figure import Figure
from semshare_core.budget.levels import BOUNDS

FROM_TURN = 3
IDLE_SPEED, IDLE_SLOWEST, STABLE_SPEED = 8.0, 4.0, 20.0
SPEED, ALL_SPEED, SLOWEST = 6.0, 4.0, 2.0
OLD_SHARE = 0.5
ALLOWED_MORE = 0.02
CHAINS = 40
JUDGED_DISTANCES = (0, 250)
RIGHT = 100
WAIT_MS = 100.0
UNCALIBRATED = "default"
ASKED = {"call": "same tool call", "copy": "verbatim copies", "gone": "that content is gone"}


def must_hold(items: Sequence[AgentItem]) -> list[Figure]:
    """Every line that the items say something about."""
    found = [item for item in items if isinstance(item, TurnItem)]
    asked = [item for item in items if isinstance(item, FactItem)]
    came = [item for item in items if isinstance(item, ArrivalItem)]
    parts = (_idle, _back_to_back, _old_text, _beyond, _held, _uncalibrated, _anchor)
    return [*(figure for part in parts for figure in part(found)), *_facts(asked), *_arrivals(came)]


def part_of(items: Sequence[TurnItem], part: str, **fields: object) -> list[TurnItem]:
    """The items of a part whose fields are these."""
    return [
        item
        for item in items
        if item.part == part and all(getattr(item, name) == value for name, value in fields.items())
    ]


def beyond(level: str) -> Callable[[TurnItem], bool]:
    """Whether a call lies farther from the full prefill than the level's bound."""
    return lambda item: item.promised_kl > BOUNDS[level].kl


def by_edit(items: Sequence[TurnItem]) -> dict[str, list[TurnItem]]:
    """In the order in which the edits came."""
    groups: dict[str, list[TurnItem]] = {}
    for item in items:
        groups.setdefault(item.edit, []).append(item)
    return groups


def late(items: Sequence[TurnItem]) -> list[TurnItem]:
    """From :data:`FROM_TURN` on: before it most of the prompt is new."""
    return [item for item in items if item.turn >= FROM_TURN]


def speeds_told(items: Sequence[TurnItem]) -> str:
    speeds = [item.speed for item in items]
    kl = [item.promised_kl for item in items]
    by_cpu = [item.cpu_speed for item in items]
    told = f"median {median(speeds):.1f}×, slowest {min(speeds):.1f}×, KL {mean(kl):.3f}, largest {max(kl):.3f}"
    return f"{told}; by processor time {median(by_cpu):.1f}× and {min(by_cpu):.1f}×"


def _idle(items: Sequence[TurnItem]) -> Iterator[Figure]:
    for edit, found in by_edit(late(part_of(items, turns.PART, mode=idle_mode(IDLE)))).items():
        speeds = [item.speed for item in found]
        met = median(speeds) >= IDLE_SPEED and min(speeds) >= IDLE_SLOWEST
        target = f"median >= {IDLE_SPEED:g}×, slowest >= {IDLE_SLOWEST:g}×"
        yield Figure(f"{edit}, with idle time ({IDLE:g} full prefills)", speeds_told(found), target, met)


def _back_to_back(items: Sequence[TurnItem]) -> Iterator[Figure]:
    """A stable history has nothing to heal: it is judged by its line with idle time, and measured without."""
    for edit, found in by_edit(late(part_of(items, turns.PART, mode=BACK_TO_BACK))).items():
        speeds = [item.speed for item in found]
        least = {STABLE: STABLE_SPEED, "all": ALL_SPEED}.get(edit, SPEED)
        slowest = IDLE_SLOWEST if edit == STABLE else SLOWEST
        met = median(speeds) >= least and min(speeds) >= slowest
        target = f"median >= {least:g}×, slowest >= {slowest:g}×"
        told = speeds_told(found)
        if ideal := late(part_of(items, turns.PART, edit=edit, mode=PREFIX_CACHE)):
            told += f"; transformers' own prefix cache {speeds_told(ideal)}"
        yield Figure(f"{edit}, back to back", told, target, met)


def _old_text(items: Sequence[TurnItem]) -> Iterator[Figure]:
    """Judged on the long chains. Short prompts are computed where reuse would save next to nothing."""
    for part, name, judged in ((turns.PART, "long chains", True), (promises.PART, "short chains", False)):
        found = [item for item in part_of(items, part) if item.system in BOUNDS and item.turn > 1 and item.old_tokens]
        if found:
            most = max(found, key=lambda item: item.old_share)
            over = sum(item.old_share > OLD_SHARE for item in found)
            where = f"{most.edit}, turn {most.turn}, {most.system}, {most.mode}"
            yield Figure(
                f"old text that a turn computes again, at most, {name}",
                f"{most.old_share:.0%} ({where}); {over} of {len(found)} turns over {OLD_SHARE:.0%}",
                f"<= {OLD_SHARE:.0%}" if judged else "",
                most.old_share <= OLD_SHARE if judged else None,
            )


def _beyond(items: Sequence[TurnItem]) -> Iterator[Figure]:
    """At a position there are few calls: it is broken where chance does not explain it, and open in between."""
    found = [item for item in part_of(items, promises.PART) if item.approximate]
    for level, bound in BOUNDS.items():
        calls = [item for item in found if item.system == level]
        if not calls:
            continue
        allowed = bound.share + ALLOWED_MORE
        chains = len({item.chain for item in part_of(items, promises.PART, system=level)})
        whole = share(calls, beyond(level))
        met = whole.value <= allowed if chains >= CHAINS or whole.value > allowed else None
        name = f"{level}: approximate calls beyond KL {bound.kl:g}"
        yield Figure(name, f"{whole.told()}; {chains} chains", f"<= {allowed:.0%} of {CHAINS} chains", met)
        for turn in sorted({item.turn for item in calls}):
            at = share([item for item in calls if item.turn == turn], beyond(level))
            met = True if at.value <= allowed else (False if at.low > allowed else None)
            yield Figure(f"{name}, turn {turn}", at.told(), f"<= {allowed:.0%}", met)


def _held(items: Sequence[TurnItem]) -> Iterator[Figure]:
    found = part_of(items, promises.PART)
    floors = {(item.chain, item.turn): item for item in found if item.system == NOISE_FLOOR}
    for kind, name in ASKED.items():
        for level in BOUNDS:
            pairs = [
                (item, floors[item.chain, item.turn])
                for item in found
                if item.system == level and item.ask == kind and (item.chain, item.turn) in floors
            ]
            told_of_both = [(ours.chain, ours.held, floor.held) for ours, floor in pairs]
            made = compared([(chain, a, b) for chain, a, b in told_of_both if a is not None and b is not None])
            if made.count:
                full = sum(bool(ours.full_held) for ours, _ in pairs)
                told = f"{made.held} of {made.count}, noise floor {made.floor}, full prefill {full}"
                told += f"; the difference is at most {made.most:+.1%}"
                judged = level == LEVEL
                target = "not below the noise floor" if judged else ""
                yield Figure(f"{name}, {level}", told, target, made.met if judged else None)


def _uncalibrated(items: Sequence[TurnItem]) -> Iterator[Figure]:
    bound = BOUNDS[LEVEL]
    allowed = bound.share + ALLOWED_MORE
    for name in (promises.WITHOUT, uncalibrated.NOISY):
        found = [item for item in items if item.system == name and item.approximate]
        if found:
            at = share(found, beyond(LEVEL))
            says = all(item.calibration == UNCALIBRATED for item in found)
            told = f"{at.told()}; {'every' if says else 'not every'} report says so"
            yield Figure(
                f"{name}: approximate calls beyond KL {bound.kl:g}",
                told,
                f"<= {allowed:.0%}",
                at.value <= allowed and says,
            )


def _arrivals(items: Sequence[ArrivalItem]) -> Iterator[Figure]:
    """By the wait for the model, in which a call finds out that the engine heals."""
    during, others = ([item.queue_ms for item in items if item.healing is healing] for healing in (True, False))
    if during:
        more = median(during) - (median(others) if others else 0.0)
        late_wait = float(np.quantile(during, 0.99))
        told = f"{more:.0f} ms more at the median, p99 {late_wait:.0f} ms, of {len(during)} calls"
        yield Figure("wait of a call that arrives during healing", told, f"<= {WAIT_MS:g} ms more", more <= WAIT_MS)


def _anchor(items: Sequence[TurnItem]) -> Iterator[Figure]:
    for system in (anchor.EPIC, LEVEL):
        found = part_of(items, anchor.PART, system=system)
        if found:
            rows = mean(item.recompute_ratio for item in found)
            told = f"{speeds_told(found)}, rows {rows:.0%}"
            published = "published: 9× at KL 0.012" if system == anchor.EPIC else ""
            yield Figure(f"compaction behind a full turn, {system}", told, published)


def _floor(items: Sequence[FactItem]) -> str:
    """What the full prefill in other numerics has stale."""
    margins = [item.floor_margin for item in items if item.floor_margin is not None]
    return f", noise floor {sum(margin <= 0 for margin in margins)}" if len(margins) == len(items) else ""


def _facts(items: Sequence[FactItem]) -> Iterator[Figure]:
    for distance in sorted({item.distance for item in items}):
        found = [item for item in items if item.distance == distance]
        made = compared([(item.document, item.right, item.full_right) for item in found])
        stale, full_stale, right = made.count - made.held, made.count - made.floor, made.floor
        kept = sum(item.right for item in found if item.full_right)
        reused = sum(item.outcome != "miss" and item.recompute_ratio < 1 for item in found)
        told = (
            f"stale {stale}, full prefill {full_stale}{_floor(found)}, of {len(found)}; of its {right} right answers "
            f"{kept} kept; "
            f"the difference is at most {made.most:+.1%}; "
            f"{mean(item.tokens_between for item in found):.0f} tokens between, {reused} reused"
        )
        judged = distance in JUDGED_DISTANCES
        met: bool | None = None
        if judged:
            met = made.met if right >= RIGHT or not made.met else None
        target = f"stale no more than the full prefill, or chance explains it; >= {RIGHT} right" if judged else ""
        yield Figure(f"derived facts, {distance} tokens behind the edit", told, target, met)
