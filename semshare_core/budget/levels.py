"""What each level promises: how far from the full prefill's its answers may lie, and how often they may lie farther."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED_TOKENS = 32
"""The divergence of a call is the mean over so many first tokens of its answer."""


@dataclass(frozen=True)
class Bound:
    """A promise: at most ``share`` of a level's calls have a divergence above ``kl``.

    Attributes:
        kl: KL(full prefill || reuse) in nats, the mean over the first :data:`MEASURED_TOKENS` tokens of the answer.
        share: of the calls, those may exceed it.
    """

    kl: float
    share: float = 0.05


BOUNDS = {"high": Bound(0.02), "balanced": Bound(0.05), "fast": Bound(0.15)}
"""By level. ``off`` and ``exact`` need none: their answers are the full prefill's."""

_STRICTER = {"fast": "balanced", "balanced": "high", "high": "exact"}


def stricter(level: str) -> str:
    """The next level that promises more; ``exact`` is the last."""
    return _STRICTER[level]
