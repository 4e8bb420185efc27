"""Measure: case by case, system by system, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.bench.budget import Budget
from benchmarks.bench.item import make_item
from benchmarks.bench.metrics import KL, SPEED
from benchmarks.bench.plan import Part
from benchmarks.bench.record import Record
from benchmarks.bench.workloads import FIRST_TURN
from benchmarks.case import Case
from benchmarks.measure import Baseline, baseline, full_prefill
from benchmarks.systems import Sample, Subject, System
from benchmarks.systems.engine_system import EngineSystem
from semshare_core import SemShareEngine
from semshare_core.prefill.cache import kv_bytes

_FULL_STAYS_FRESH = 6.0
"""A full prefill is timed anew after so many times its own duration: the machine has other work by then."""


@dataclass
class FullClock:
    """Full prefills of one prompt, timed again and again beside what they are compared with."""

    engine: SemShareEngine
    base: Baseline

    def __post_init__(self) -> None:
        self._seconds = self.base.seconds
        self._timed_at = time.perf_counter()

    def seconds(self) -> float:
        """The latest timing, taken anew where it is old."""
        if time.perf_counter() - self._timed_at > _FULL_STAYS_FRESH * self._seconds:
            self._seconds = full_prefill(self.engine.model, self.base.ids)[0]
            self._timed_at = time.perf_counter()
        return self._seconds


@dataclass
class Runner:
    """Runs parts on one engine; every item goes to the record as soon as it is measured."""

    engine: SemShareEngine
    record: Record
    say: Callable[[str], None]
    _warmed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._kv_bytes_per_token = kv_bytes_per_token(self.engine)

    def run(self, part: Part, cases: Sequence[Case], systems: Sequence[System]) -> None:
        """The part's cases, while its minutes last."""
        budget = Budget(60 * part.minutes)
        started, done = time.perf_counter(), 0
        for case in budget.take(cases):
            self._case(part, case, _rotated(systems, done))
            done += 1
        self.record.parts.append(
            {
                "workload": part.workload,
                "planned": len(cases),
                "measured": done,
                "systems": [system.name for system in systems],
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
        if budget.stopped:
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

    def _case(self, part: Part, case: Case, systems: Sequence[System]) -> None:
        if not part.chained or case.setting == FIRST_TURN:
            self.engine.pool.clear()
            self.engine.warm(list(case.references))
        subject = self.subject(case, part.tokens, part.text)
        clock = FullClock(self.engine, subject.base)
        samples: list[tuple[System, Sample, list[float], list[float]]] = []
        for system in systems:
            if system.name not in self._warmed:  # what starts up in a first call is not what is measured
                system.seconds(subject)
                self._warmed.add(system.name)
            full = clock.seconds()
            sample = system.sample(subject)
            samples.append((system, sample, [sample.seconds], [full]))
            if part.repeats == 1:
                self.keep(subject, system.name, sample, [sample.seconds], [full])
        for _ in range(part.repeats - 1):
            for system, _, seconds, fulls in samples:
                fulls.append(clock.seconds())
                seconds.append(system.seconds(subject))
        if part.repeats > 1:
            for system, sample, seconds, fulls in samples:
                self.keep(subject, system.name, sample, seconds, fulls)
        if part.chained:
            self._store(case, systems)

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
