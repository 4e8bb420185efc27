"""One measured figure beside its target, and what a section is given to measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks.measure import Measured
from semshare_core import SemShareEngine


@dataclass(frozen=True)
class Figure:
    """``met`` is None where there is no target; ``items`` holds what the figure was made of."""

    name: str
    measured: str
    target: str = ""
    met: bool | None = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What a section is given: the engine, a place for progress, and how far to shrink.

    Attributes:
        pairs: at most so many items (pairs, prompts, repetitions) in each part of a section; None: its own number.
        shrink: prompts whose length can be chosen are so many times shorter (to try the benchmark out).
        minutes: how long a section goes on whose length is a matter of time.
    """

    engine: SemShareEngine
    say: Callable[[str], None]
    pairs: int | None = None
    shrink: int = 1
    minutes: float = 30.0

    def count(self, own: int) -> int:
        return own if self.pairs is None else min(own, self.pairs)

    def tokens(self, own: int) -> int:
        return own // self.shrink

    def count_tokens(self, text: str) -> int:
        return len(self.engine.tokenizer(text, verbose=False)["input_ids"])


Section = Callable[[Run], Iterator[Figure]]


def means(found: Sequence[Measured]) -> str:
    """What calls took and cost, on average."""
    return (
        f"{mean(m.speedup for m in found):.2f}x, KL {mean(m.kl for m in found):.3f}, agreement "
        f"{mean(m.agreement for m in found):.3f}, ratio {mean(m.report.recompute_ratio for m in found):.3f}"
    )


def ratio_figure(name: str, ratios: Sequence[float], ceiling: float, outcomes: Sequence[str]) -> Figure:
    """Whether the promise was measured at the ratio that it was made for: reuse, and not a full prefill in disguise."""
    served = sum(outcome in ("semantic", "prefix") for outcome in outcomes)
    told = f"mean {mean(ratios):.3f}, largest {max(ratios):.3f}; {served}/{len(outcomes)} reused"
    return Figure(f"{name}: recompute ratio of every item", told, f"<= {ceiling}", max(ratios) <= ceiling, list(ratios))


def item(name: str, found: Measured) -> dict[str, Any]:
    """All of a measured call, less the codes per token."""
    return {
        "id": name,
        "speedup": found.speedup,
        "full_ms": 1e3 * found.full_seconds,
        "ttft_ms": found.ttft_ms,
        "kl": found.kl,
        "agreement": found.agreement,
        "kl_by_token": found.divergence.kl.round(5).tolist(),
        "report": found.report.model_dump(mode="json", exclude={"token_sources", "token_recomputed"}),
    }
