"""The one interface of the systems: a case made ready goes in, a sample comes out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers.cache_utils import Cache

from benchmarks.case import Case
from benchmarks.measure import Baseline, divergence
from benchmarks.systems.answer import Ending, greedy_tokens
from benchmarks.systems.memory import peak_bytes
from semshare_core import SemShareEngine


@dataclass(frozen=True)
class Subject:
    """A case made ready: its references are in the engine's pool, its full prefill is measured.

    Attributes:
        full_kv_bytes: of the full prefill's cache.
        wants_text: whether the system's own answer is asked for, which takes as long as decoding it.
    """

    engine: SemShareEngine
    case: Case
    base: Baseline
    full_kv_bytes: int
    wants_text: bool = True

    @property
    def ending(self) -> Ending:
        return Ending.of(self.case, self.engine.model, self.engine.tokenizer)

    @property
    def full_tokens(self) -> list[int]:
        """The full prefill's greedy continuation."""
        return [int(token) for token in self.base.continuation]

    @property
    def full_lead(self) -> float:
        """By how many nats its token leads over the next best one, where it does so least on the way to its end."""
        said = self.base.log_probs[: self.ending.length(self.full_tokens)]
        best, next_best = said.topk(2, dim=-1).values.unbind(dim=-1)
        return float((best - next_best).min())


@dataclass(frozen=True)
class Prefilled:
    """A prompt whose first token is known.

    Attributes:
        seconds: from the prompt to the first token, with everything that the system does for it.
        logits: [vocabulary] of the next token.
        cache: of the prompt's rows; to be continued by whoever has it.
        kv_bytes: of the cache while decoding.
        recompute_ratio: rows computed / all rows; None where it is not known.
        outcome: in the words of :class:`semshare_core.ReuseReport`.
        stepwise: the cache can only be continued token by token.
    """

    seconds: float
    logits: Tensor
    cache: Cache
    kv_bytes: int
    recompute_ratio: float | None
    outcome: str
    reason: str = ""
    stepwise: bool = False


@dataclass(frozen=True)
class Sample:
    """One answer of one system.

    Attributes:
        kl: KL(full || system) in nats before each token of the full prefill's continuation; empty: no logits given.
        agree: 1 where both would choose the same token, else 0.
        text: the system's own greedy answer; None where it was not asked for.
        peak_bytes: the most resident memory of the process during such a call; None where it was not looked at.
    """

    seconds: float
    kl: list[float]
    agree: list[int]
    text: str | None
    kv_bytes: int
    recompute_ratio: float | None
    outcome: str
    reason: str = ""
    peak_bytes: int | None = None


class System(ABC):
    """Something that answers prompts; ``name`` is as in tables and on the command line."""

    name: str

    @abstractmethod
    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        """Prepare what the system would have kept of the references, untimed; returns the call, which times itself."""

    def seconds(self, subject: Subject) -> float:
        """TTFT alone, for repetitions."""
        return self.ready(subject)().seconds

    def peak_bytes(self, subject: Subject) -> int | None:
        """The most resident memory of the process during a call; see :func:`benchmarks.systems.memory.peak_bytes`."""
        return peak_bytes(self.ready(subject))

    def sample(self, subject: Subject) -> Sample:
        """A call, compared with the full prefill."""
        made = self.ready(subject)()
        spare = copy.deepcopy(made.cache) if subject.wants_text else None
        found = divergence(subject.engine.model, subject.base, made.logits, made.cache, stepwise=made.stepwise)
        return Sample(
            seconds=made.seconds,
            kl=[float(value) for value in found.kl],
            agree=[int(same) for same in found.agree],
            text=None if spare is None else _text(subject, made.logits, spare, [bool(same) for same in found.agree]),
            kv_bytes=made.kv_bytes,
            recompute_ratio=made.recompute_ratio,
            outcome=made.outcome,
            reason=made.reason,
        )


def _text(subject: Subject, logits: Tensor, cache: Cache, agree: list[bool]) -> str:
    """The system's own answer. Where it agrees with the full prefill's on every token, that is it, without decoding."""
    ending, full = subject.ending, subject.full_tokens
    if all(agree[: ending.length(full)]):
        return ending.text(full)
    return ending.text(greedy_tokens(subject.engine.model, cache, logits, ending, len(full)))
