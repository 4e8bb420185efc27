"""What is kept of a measured turn, a derived fact and an arrival: all that figures and tables are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from semshare_core.budget.levels import MEASURED_TOKENS

BACK_TO_BACK = "back to back"
PREFIX_CACHE = "prefix cache"
NOISE_FLOOR = "full prefill in bfloat16"


@dataclass(frozen=True)
class TurnItem:
    """One system on one turn of a chain. Times in ms, divergences in nats.

    Attributes:
        part: of the benchmark.
        edit: of the chain.
        turn: counted from 1.
        system: a level, or what else answered.
        mode: ``back to back``, ``prefix cache`` for transformers' own, or the idle time before this turn in full
            prefills of the turn before it.
        tokens: of the prompt.
        full_ms: of the full prefill of this prompt in the same run.
        cpu_ms, full_cpu_ms: processor time of the calling thread, for the whole call (with what is stored) and for the
            full prefill. With one thread they do not depend on what else the machine does.
        kl, agree: before each token of the full prefill's greedy answer.
        old_tokens: those that stand in runs of earlier prompts of the chain; ``old_computed``: of these computed again.
        ask: what was asked; see ``workloads/agent_steps.py``.
        held: ``call``: the same tool call as the full prefill's · ``copy``: the lines, word by word · ``gone``: that
            the content is gone is likelier than its first line · ``place``: the name is likelier than the one that
            stood there before; None where any answer will do.
        full_held: the same of the full prefill.
        account: of this call's rows; None where the engine did not answer.
    """

    part: str
    chain: str
    edit: str
    turn: int
    system: str
    mode: str
    tokens: int
    ttft_ms: float
    full_ms: float
    cpu_ms: float
    full_cpu_ms: float
    kl: list[float]
    agree: list[int]
    recompute_ratio: float
    old_tokens: int
    old_computed: int
    ask: str
    held: bool | None
    full_held: bool | None
    outcome: str
    reason: str
    calibration: str | None
    expected_kl: float | None
    account: float | None

    @property
    def speed(self) -> float:
        """How many times shorter than the full prefill's the TTFT is."""
        return self.full_ms / self.ttft_ms

    @property
    def cpu_speed(self) -> float:
        """The same by processor time."""
        return self.full_cpu_ms / self.cpu_ms

    @property
    def promised_kl(self) -> float:
        """What the levels' promises are about."""
        return mean(self.kl[:MEASURED_TOKENS])

    @property
    def old_share(self) -> float:
        """The share of old text that was computed again."""
        return self.old_computed / self.old_tokens if self.old_tokens else 0.0

    @property
    def approximate(self) -> bool:
        """Whether the answer may differ from the full prefill's."""
        return self.outcome == "semantic" or (self.outcome == "prefix" and self.account != 0)

    def to_json(self) -> dict[str, Any]:
        return {"type": "turn", **asdict(self)}


@dataclass(frozen=True)
class FactItem:
    """One question whose answer unchanged text derives from an edited fact.

    Attributes:
        document: several questions are asked of one.
        distance: as planned: tokens between the fact and the text that depends on it; ``tokens_between``: as counted.
        margin: log-probability per token of the new answer less that of the old one, in nats.
        full_margin: the full prefill's; ``floor_margin``: the full prefill's in bfloat16.
    """

    document: str
    question: str
    distance: int
    tokens_between: int
    tokens: int
    margin: float
    full_margin: float
    outcome: str
    recompute_ratio: float
    floor_margin: float | None = None

    @property
    def right(self) -> bool:
        return self.margin > 0

    @property
    def full_right(self) -> bool:
        return self.full_margin > 0

    def to_json(self) -> dict[str, Any]:
        return {"type": "fact", **asdict(self)}


@dataclass(frozen=True)
class ArrivalItem:
    """A call that came at a random moment.

    Attributes:
        healing: whether something was left to be healed when it came.
        queue_ms: how long it waited for the model.
    """

    chain: str
    turn: int
    tokens: int
    outcome: str
    healing: bool
    queue_ms: float

    def to_json(self) -> dict[str, Any]:
        return {"type": "arrival", **asdict(self)}


AgentItem = TurnItem | FactItem | ArrivalItem
_TYPES: dict[str, type[AgentItem]] = {"turn": TurnItem, "fact": FactItem, "arrival": ArrivalItem}


def agent_item(told: Mapping[str, Any]) -> AgentItem:
    """What :meth:`to_json` gave. Other objects raise `KeyError` or `TypeError`."""
    fields = dict(told)
    return _TYPES[fields.pop("type")](**fields)
