"""What every part is given: the engines, the texts, and a place for what was measured."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.agents.healing import pool_config
from benchmarks.agents.item import AgentItem, FactItem, TurnItem
from benchmarks.agents.measuring import FullTurn, Place, served_turn
from benchmarks.agents.old_text import OldText
from benchmarks.agents.plan import Plan
from benchmarks.bench.budget import Budget
from benchmarks.bench.record import Record
from benchmarks.corpora.agent_material import AgentMaterial
from semshare_core import SemShareEngine
from semshare_core.budget.calibration import Calibration

T = TypeVar("T")


def engine_on(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    heal: bool = False,
    calibration: Calibration | Literal["auto"] | None = None,
) -> SemShareEngine:
    """An engine with a pool of its own; several may serve one model, one call at a time."""
    return SemShareEngine(model, tokenizer, pool=pool_config(heal=heal), calibration=calibration)


@dataclass
class AgentRun:
    """Parts measure with it; every item goes to the record as soon as it is measured.

    Attributes:
        engine: does not heal.
    """

    engine: SemShareEngine
    material: AgentMaterial
    plan: Plan
    record: Record[AgentItem]
    say: Callable[[str], None]

    @functools.cached_property
    def healing(self) -> SemShareEngine:
        """The same model with a healing pool."""
        return engine_on(self.engine.model, self.engine.tokenizer, heal=True, calibration=self.engine.calibration)

    def count_tokens(self, text: str) -> int:
        return len(self.engine.tokenizer(text, verbose=False)["input_ids"])

    def take(self, part: str, things: Sequence[T]) -> Iterator[T]:
        """The things that a part measures, while its minutes last; tells what was left out."""
        minutes = self.plan.minutes[part]
        budget, started, done = Budget(60 * minutes), time.perf_counter(), 0
        for thing in budget.take(things):
            yield thing
            done += 1
        seconds = round(time.perf_counter() - started, 1)
        self.record.parts.append({"part": part, "planned": len(things), "measured": done, "seconds": seconds})
        if budget.stopped:
            self.note(f"{part}: {done} of {len(things)}; the {minutes:g} minutes were used up")
        self.record.write()

    def keep(self, item: AgentItem) -> None:
        """Into the record, and a line of progress."""
        self.record.add(item)
        if isinstance(item, TurnItem):
            name = f"{item.part}, {item.edit} turn {item.turn}, {item.system}, {item.mode}"
            speed = f"{item.speed:.1f}× ({item.cpu_speed:.1f}× by processor time)"
            told = f"{item.outcome}, {speed}, KL {item.promised_kl:.4f}, old text {item.old_share:.0%}"
            held = {None: "", True: f", {item.ask} held", False: f", {item.ask} not held"}[item.held]
            self.say(f"{name}: {told}{held}")
        elif isinstance(item, FactItem):
            self.say(f"facts, {item.question}: {item.outcome}, margin {item.margin:.2f}, full {item.full_margin:.2f}")
        else:
            during = " during healing" * item.healing
            self.say(f"arrivals, {item.chain} turn {item.turn}: waited {item.queue_ms:.0f} ms{during}")

    def note(self, told: str) -> None:
        """What could not be measured, and why."""
        self.record.notes.append(told)
        self.record.write()
        self.say(told)

    def serve(
        self, engine: SemShareEngine, full: FullTurn, reuse: str, place: Place, old: OldText, *, system: str = ""
    ) -> None:
        """A turn by ``engine``, in a namespace of the chain and the system; kept."""
        name = system or reuse
        self.keep(
            served_turn(engine, full, reuse, place, old, system=name, namespace=f"{place.chain}/{place.mode}/{name}")
        )


@contextmanager
def emptied(*engines: SemShareEngine) -> Iterator[None]:
    """A chain leaves nothing in the pools."""
    try:
        yield
    finally:
        for engine in engines:
            engine.pool.clear()
