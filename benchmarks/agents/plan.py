"""What is measured, and for how long at most: the parts, each on its own.

Sized for one thread of a quiet machine: all parts together take at most 90 minutes, with `--quick` at most 10. A part
whose minutes are used up begins no further chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from benchmarks.workloads.agent_chains import EDITS, Sizes
from benchmarks.workloads.derived_facts import DISTANCES

ABOUT = {
    "turns": "every edit, prompts growing from 1,000 to 4,000 tokens, back to back and with idle time",
    "promises": "many short chains at every level, lists among them, beside the full prefill in bfloat16",
    "facts": "answers that unchanged text derives from an edited fact",
    "anchor": "compaction by EPIC-128 and ours, behind a turn that was computed in full",
    "uncalibrated": "short chains on demo weights with noise, which no calibration knows",
    "arrivals": "calls that come while the engine heals",
}
LISTS = "lists"
LEVEL = "balanced"
IDLE = 1.5
SHORT_IDLE = 0.3


@dataclass(frozen=True)
class Plan:
    """Sizes of the parts.

    Attributes:
        turns: of each chain.
        sizes: of the chains of ``turns`` and ``anchor``.
        edits: of ``turns``.
        short_idle: edits that are also measured with :data:`SHORT_IDLE`.
        chains: of ``promises``; every fifth is a list.
        without: every so many of them is also measured with ``calibration=None``.
        noisy: chains of ``uncalibrated``; ``arriving``: of ``arrivals``.
        right: so many questions that the full prefill answers are wanted at each distance.
        documents: at most so many at each distance.
        minutes: of each part, at most.
    """

    turns: int = 8
    sizes: Sizes = field(default_factory=Sizes)
    edits: tuple[str, ...] = tuple(EDITS)
    short_idle: tuple[str, ...] = ("clock", "all")
    chains: int = 40
    without: int = 4
    noisy: int = 6
    arriving: int = 12
    right: int = 100
    documents: int = 60
    distances: tuple[int, ...] = DISTANCES
    minutes: dict[str, float] = field(
        default_factory=lambda: {
            "turns": 40,
            "promises": 29,
            "facts": 11,
            "anchor": 2.5,
            "uncalibrated": 3,
            "arrivals": 3,
        }
    )

    def shortened(self) -> Plan:
        """Some of everything: this shows that the benchmark runs, not what holds."""
        return replace(
            self,
            sizes=Sizes(first=700, second=1500, last=1800, tools=5, memories=3, history=3),
            edits=tuple(edit for edit in ("clock", "memories", "compaction") if edit in self.edits) or self.edits[:1],
            short_idle=(),
            chains=2,
            without=1,
            noisy=1,
            arriving=1,
            right=3,
            documents=2,
            minutes={"turns": 5, "promises": 1.5, "facts": 1, "anchor": 1, "uncalibrated": 0.7, "arrivals": 0.5},
        )

    def even(self) -> Plan:
        """Every turn of the long chains adds the same number of tokens."""
        sizes = self.sizes
        step = (sizes.last - sizes.first) // max(self.turns - 1, 1)
        return replace(self, sizes=replace(sizes, second=sizes.first + step))
