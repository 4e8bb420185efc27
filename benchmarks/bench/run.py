"""Measure: case by case, system by system, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.bench.budget import Budget
from benchmarks.bench.item import Item, make_item
from benchmarks.bench.metrics import KL, SPEED
from benchmarks.bench.plan import Part
from benchmarks.bench.record import Record
from benchmarks.bench.workloads import FIRST_TURN
from benchmarks.case import Case, answers
from benchmarks.measure import Baseline, baseline, full_prefill
from benchmarks.systems import Sample, Subject, System
from benchmarks.systems.engine_system import EngineSystem
from semshare_core import SemShareEngine
from semshare_core.prefill.cache import kv_bytes

_FULL_STAYS_FRESH = 4.0
"""A full prefill is timed anew after so many times its own duration: the machine has other work by then."""
_TIMED_SECONDS, _MOST_REPEATS = 6.0, 12
"""Repeated calls: for so many seconds of full prefills, or so many times. On short ones noise weighs more."""


class FullClock:
    """Full prefills of one prompt, timed again and again between what they are compared with."""

    def __init__(self, engine: SemShareEngine, base: Baseline) -> None:
        self._engine = engine
        self._base = base
        self._seconds = [base.seconds]
        self._timed_at = time.perf_counter()

    def moment(self, *, anew: bool = False) -> int:
        """Now, as the number of the latest timing; it is taken again where it is old."""
        if anew or time.perf_counter() - self._timed_at > _FULL_STAYS_FRESH * self._seconds[-1]:
            self._seconds.append(full_prefill(self._engine.model, self._base.ids)[0])
            self._timed_at = time.perf_counter()
        return len(self._seconds) - 1

    def around(self, moments: Sequence[int]) -> list[float]:
        """The timings before and after each of the moments."""
        return [seconds for moment in moments for seconds in self._seconds[moment : moment + 2]]


@dataclass
class _Measured:
    """A system's sample on a case, the seconds of its calls, and when they were."""

    system: System
    sample: Sample
    seconds: list[float]
    moments: list[int]


@dataclass
class Runner:
    """Runs parts on one engine; every item goes to the record as soon as it is measured."""

    engine: SemShareEngine
    record: Record[Item]
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._kv_bytes_per_token = kv_bytes_per_token(self.engine)

    def run(self, part: Part, cases: Sequence[Case], systems: Sequence[System]) -> None:
        """The part's cases, while its minutes last."""
        budget = Budget(60 * part.minutes)
        started, seen, done = time.perf_counter(), 0, 0
        for case in budget.take(cases):
            done += self._case(part, case, _rotated(systems, done), first=not done)
            seen += 1
        self.record.parts.append(
            {
                "workload": part.workload,
                "planned": len(cases),
                "measured": done,
                "systems": [system.name for system in systems],
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        if part.screened:
            self.note(f"{part.workload}: of {seen} cases the full prefill answers {done}, and these are measured")
        elif budget.stopped:
            self.note(f"{part.workload}: {done} of {len(cases)} cases; the {part.minutes:g} minutes were used up")
        self.record.write()

    def subject(self, case: Case, tokens: int, text: bool) -> Subject:
        """The full prefill of a case, measured. What the pool holds is left as it is."""
        base = baseline(self.engine, case.target, tokens)
        return Subject(self.engine, case, base, base.ids.shape[1] * self._kv_bytes_per_token, text)

    def keep(self, subject: Subject, system: str, sample: Sample, seconds: list[float], fulls: list[float]) -> None:
        """Into the record, and a line of progress."""
        self.record.add(item := make_item(subject, system, sample, seconds, fulls))
        self.say(f"{item.workload}, {item.case}, {system}: {item.outcome}, {SPEED.told([item])}, KL {KL.told([item])}")

    def note(self, told: str) -> None:
        """What could not be measured, and why."""
        self.record.notes.append(told)
        self.record.write()
        self.say(told)

    def count_tokens(self, text: str) -> int:
        """As the workloads' builders want it."""
        return len(self.engine.tokenizer(text, verbose=False)["input_ids"])

    def _case(self, part: Part, case: Case, systems: Sequence[System], *, first: bool) -> bool:
        """Measure a case, or leave it out where it is screened.

        ``first``: of its part, where each system is called untimed before, for what starts up and for its memory.
        """
        subject = self.subject(case, part.tokens, part.text)
        if part.screened and not answers(subject.ending.text(subject.full_tokens), case.gold):
            return False
        if not part.chained or case.setting == FIRST_TURN:
            self.engine.pool.clear()
            self.engine.warm(list(case.references))
        peaks: dict[str, int | None] = {}
        if first and part.peaks:
            peaks = {system.name: system.peak_bytes(subject) for system in systems}
            full_prefill(self.engine.model, subject.base.ids)  # takes back the memory that was given back for them
        clock = FullClock(self.engine, subject.base)
        waiting: list[_Measured] = []
        repeats = part.repeats
        if repeats > 1:
            repeats = max(repeats, min(_MOST_REPEATS, round(_TIMED_SECONDS / subject.base.seconds)))
        for system in systems:
            now = clock.moment(anew=first and not waiting)  # the calls without a clock came between
            sample = replace(system.sample(subject), peak_bytes=peaks.get(system.name))
            if repeats == 1:
                waiting = self._keep_settled(subject, clock, waiting, now)
            waiting.append(_Measured(system, sample, [sample.seconds], [now]))
        for _ in range(repeats - 1):
            now = clock.moment(anew=True)
            for measured in waiting:
                measured.moments.append(now)
                measured.seconds.append(measured.system.seconds(subject))
        self._keep_settled(subject, clock, waiting, clock.moment(anew=True))
        if part.chained:
            self._store(case, systems)
        return True

    def _keep_settled(
        self, subject: Subject, clock: FullClock, waiting: Sequence[_Measured], now: int
    ) -> list[_Measured]:
        """Record what has a full prefill timed after it, too; returns the rest."""
        for measured in waiting:
            if measured.moments[-1] < now:
                fulls = clock.around(measured.moments)
                self.keep(subject, measured.system.name, measured.sample, measured.seconds, fulls)
        return [measured for measured in waiting if measured.moments[-1] >= now]

    def _store(self, case: Case, systems: Sequence[System]) -> None:
        """The next turn is served from what this one leaves in the pool."""
        for system in systems:
            assert isinstance(system, EngineSystem), "only the engine keeps what it served"
            self.engine.prefill(case.target, reuse=system.policy)


def kv_bytes_per_token(engine: SemShareEngine) -> int:
    """Of a full cache, all layers."""
    tokens = 2
    cache = full_prefill(engine.model, torch.ones((1, tokens), dtype=torch.long, device=engine.model.device))[2]
    return kv_bytes([(layer.keys, layer.values) for layer in cache.layers]) // tokens


def _rotated(systems: Sequence[System], turn: int) -> list[System]:
    """Another system comes first in every case, so that none always follows the same one."""
    at = turn % len(systems)
    return [*systems[at:], *systems[:at]]
