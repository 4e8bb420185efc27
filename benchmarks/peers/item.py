"""What a peer is asked, and what it answered. Nothing that is not a number can be held here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.case import Case
from benchmarks.measure import Baseline
from semshare_core import SemShareEngine
from semshare_core.quality.divergence import Divergence

TEXT_TOKENS = 48
"""At most so many tokens does a peer continue on its own."""


@dataclass(frozen=True)
class PeerItem:
    """One case as token ids.

    Attributes:
        id: unique within a run.
        references: earlier prompts, in the order in which they came.
        target: the prompt to answer.
        continuation: the greedy continuation of the benchmark's full prefill, along which log-probabilities are asked.
    """

    id: str
    references: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.target or not self.continuation:
            raise ValueError(f"item {self.id!r}: the target and the continuation must have tokens")


@dataclass(frozen=True)
class PeerSample:
    """One answer, timed again and again from the same state.

    Attributes:
        ttft_seconds: from the target's token ids to the first token, with all that the peer does from then on.
        full_seconds: the same for full prefills by the same library, in the same process, one before each of those.
        text_tokens: the peer's own greedy continuation, 1 to 48 tokens.
        kv_bytes: of the cache that it decodes from, for the prompt's tokens.
        kv_bytes_full: of its own cache after a full prefill.
        peak_rss_bytes: the most memory that its process held resident during the timed part, the model included.
        log_probs: reads two arrays float32 [k, vocabulary], before each token of the item's continuation: after reuse,
            and after the peer's own full prefill. None where a peer gives no logits.
    """

    ttft_seconds: tuple[float, ...]
    full_seconds: tuple[float, ...]
    text_tokens: tuple[int, ...]
    kv_bytes: int
    kv_bytes_full: int
    peak_rss_bytes: int
    log_probs: Callable[[], tuple[NDArray[np.float32], NDArray[np.float32]]] | None

    def __post_init__(self) -> None:
        for name in ("ttft_seconds", "full_seconds"):
            if not (values := getattr(self, name)):
                raise ValueError(f"{name} holds no timing")
            for value in values:
                _check(name, value)
        for name in ("kv_bytes", "kv_bytes_full", "peak_rss_bytes"):
            _check(name, getattr(self, name))
        if not 0 < len(self.text_tokens) <= TEXT_TOKENS:
            raise ValueError(f"text_tokens holds {len(self.text_tokens)} tokens, not 1 to {TEXT_TOKENS}")

    @property
    def speedup(self) -> float:
        return median(self.full_seconds) / median(self.ttft_seconds)


def _check(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} is {value!r}, no number")
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} is {value!r}, but must be above 0")


@dataclass(frozen=True)
class PeerResult:
    """A sample, or the reason why there is none; never both, never neither."""

    id: str
    setting: str
    sample: PeerSample | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.sample is None) == (not self.error):
            raise ValueError(f"{self.id}, {self.setting}: a result holds either a sample or an error")


def item_of(case: Case, engine: SemShareEngine, base: Baseline) -> PeerItem:
    """``case`` in the engine's token ids, with the continuation of its full prefill."""
    return PeerItem(
        case.id,
        tuple(tuple(engine.token_ids(reference)) for reference in case.references),
        tuple(engine.token_ids(case.target)),
        tuple(base.continuation.tolist()),
    )


def divergence_of(
    full: NDArray[np.float32], log_probs: NDArray[np.float32], continuation: tuple[int, ...]
) -> Divergence:
    """KL(full || peer) in nats and top-1 agreement, from log-probabilities [k, vocabulary] each."""
    kl = (np.exp(full) * (full - log_probs)).sum(axis=-1, dtype=np.float64)
    return Divergence(kl, log_probs.argmax(axis=-1) == np.array(continuation))
