"""The levels' promises: how far an answer may lie from the full prefill's, and how often it may lie farther."""

from __future__ import annotations

from dataclasses import dataclass

MEASURED_TOKENS = 32
"""The divergence of a call is the mean over this many first tokens of its answer."""


@dataclass(frozen=True)
class Bound:
    """A promise: at most ``share`` of a level's calls have a divergence above ``kl``.

    Attributes:
        kl: KL(full prefill || reuse) in nats, the mean over the first :data:`MEASURED_TOKENS` tokens of the answer.
        share: the share of calls that may exceed ``kl``.
    """

    kl: float
    share: float = 0.05


BOUNDS = {"high": Bound(0.02), "balanced": Bound(0.05), "fast": Bound(0.15)}
"""The promises by level. ``off`` and ``exact`` need none: their answers are the full prefill's."""

_STRICTER = {"fast": "balanced", "balanced": "high", "high": "exact"}


def stricter(level: str) -> str:
    """The next stricter level, for example ``balanced`` for ``fast``; ``exact`` is the strictest."""
    return _STRICTER[level]
