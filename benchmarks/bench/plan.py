"""What is measured: which systems on which workload, on how many cases, for how long at most.

Sized for two threads of a quiet machine: all parts together take about 69 minutes, and with `--quick`, which takes
the first case or two of most, at most 10. A part whose minutes are used up takes no further case.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.bench.workloads import DRIFT_TURNS, REORDERED_CASES, SETTINGS
from benchmarks.systems.ablations import ABLATIONS
from benchmarks.systems.ours import LEVELS
from benchmarks.systems.published import RATIOS
from benchmarks.systems.retention import RETENTION

LEVEL = tuple(system.name for system in LEVELS)
PLAIN = ("full prefill", "prefix cache")
LOOK_UP = (*LEVEL, "paper", "cacheblend")
REUSING = ("prefix cache", *LOOK_UP)
QUALITY = ("full prefill", *REUSING)
BALANCED = "ours balanced"
OURS = tuple(f"ours {ratio}" for ratio in RATIOS)
CURVE = ("full prefill, cache in bfloat16", *LEVEL, *(f"ours {ratio}" for ratio in (0.05, 0.1, 0.3, 0.5, 0.7)))
FRONTIER = (*OURS, *(f"{method} {ratio}" for method in ("paper", "cacheblend") for ratio in RATIOS))


@dataclass(frozen=True)
class Part:
    """Some cases of a workload.

    Attributes:
        minutes: no further case is begun when they are used up.
        first: so many cases of the workload are another part's.
        quick: cases with ``--quick``.
        peaks: each system is called untimed before the first case, for its peak memory.
        repeats: TTFTs timed of each system, where several more of short ones; the median counts.
        tokens: continued along the full prefill, and at most in an answer.
        text: whether the systems' own answers are asked for.
        screened: only cases that the full prefill answers rightly are measured.
        chained: each case is stored as its system served it, for the next one to be served from.
    """

    workload: str
    systems: tuple[str, ...]
    cases: int
    minutes: float
    first: int = 0
    quick: int = 1
    repeats: int = 1
    peaks: bool = True
    tokens: int = 48
    text: bool = True
    screened: bool = False
    chained: bool = False

    def shortened(self) -> Part:
        return replace(self, cases=min(self.cases, self.quick), repeats=1, minutes=self.minutes / 12, peaks=False)


PLAN = (
    Part("paraphrase", (*QUALITY, "ours 0.25", *(system.name for system in ABLATIONS)), cases=6, minutes=3.5),
    Part("paraphrase", (*FRONTIER, "ours 0.7"), cases=6, minutes=2.5, quick=0, text=False),
    Part("paraphrase", (*LEVEL, "ours 0.25"), cases=14, minutes=2.5, first=6, quick=0, text=False),
    Part("reordered", REUSING, cases=6, minutes=2.25, tokens=32),
    Part("reordered", LEVEL, cases=REORDERED_CASES - 6, minutes=2.5, first=6, quick=0, tokens=32, text=False),
    Part("reordered", (*FRONTIER, "ours 0.7"), cases=REORDERED_CASES, minutes=2, quick=0, tokens=32, text=False),
    Part("answered", CURVE, cases=150, minutes=4.75, tokens=32, screened=True),
    Part("many sources", REUSING, cases=6, minutes=2.5),
    Part("many sources", FRONTIER, cases=6, minutes=2, quick=0, text=False),
    Part("editions", (*LOOK_UP, "ours 0.15"), cases=40, minutes=3, tokens=32),
    Part("codes", (*LOOK_UP, "ours 0.15"), cases=40, minutes=2.5, tokens=32),
    Part("agent replay", REUSING, cases=10, minutes=2.5),
    Part("shared context", REUSING, cases=6, minutes=1.5, tokens=32),
    Part("similarity sweep", (BALANCED,), cases=SETTINGS, minutes=4.5, quick=2, tokens=32, text=False, repeats=2),
    Part("length sweep", (BALANCED,), cases=12, minutes=5, quick=2, tokens=32, text=False, repeats=2),
    Part("retention sweep", ("ours 0.25", *(system.name for system in RETENTION)), cases=5, minutes=1),
    Part("drift", (BALANCED,), cases=DRIFT_TURNS, minutes=2, quick=4, tokens=32, text=False, chained=True),
    Part("misses", (*PLAIN, *LEVEL), cases=3, minutes=0.75, tokens=32, text=False),
    Part("overlapping", LEVEL, cases=58, minutes=5.5, tokens=32, text=False),
    Part("codes", LEVEL, cases=110, minutes=8.75, first=40, quick=0, tokens=32),
    Part("short paraphrase", LEVEL, cases=50, minutes=4.5, tokens=32, text=False),
)


@dataclass(frozen=True)
class PeersPart:
    """The first cases of some workloads, which ours has been measured on, through every peer in turn.

    Attributes:
        names: the quick ones first.
        minutes: of all peers. Each may take an even share of what is left, so that quick ones leave more to others.
    """

    names: tuple[str, ...] = ("llama-cpp", "kvpress", "kvboost", "vllm")
    workloads: tuple[str, ...] = ("paraphrase", "reordered", "many sources")
    cases: int = 1
    minutes: float = 9

    def shortened(self) -> PeersPart:
        return replace(self, workloads=self.workloads[:1], minutes=2.5)


PEERS_PART = PeersPart()

MINUTES = sum(part.minutes for part in PLAN) + PEERS_PART.minutes


def tokens_of(workload: str) -> int:
    """How far a workload is continued: peers are compared over the same tokens as ours."""
    return next(part.tokens for part in PLAN if part.workload == workload)
