"""The published methods in our engine: SemShareKV (arXiv 2509.24832) and CacheBlend (arXiv 2405.16444).

At fixed ratios the paper's method keeps all rows for decoding: retention alone moves the answer, so that without it
the comparison is one of the reuse, and to the paper's advantage.
"""

from __future__ import annotations

from benchmarks.systems.engine_system import EngineSystem
from semshare_core import ReusePolicy

RATIOS = (0.1, 0.2, 0.3, 0.5)

PUBLISHED = [
    EngineSystem("paper", ReusePolicy.paper()),
    EngineSystem("cacheblend", ReusePolicy.cacheblend()),
    *(EngineSystem(f"paper {ratio}", ReusePolicy.paper(ratio, compress=None)) for ratio in RATIOS),
    *(EngineSystem(f"cacheblend {ratio}", ReusePolicy.cacheblend(ratio)) for ratio in RATIOS),
]
