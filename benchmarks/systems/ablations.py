"""The paper's ablations, of ours at ratio 0.25 and of the paper's method: what each part is worth.

Random rows are the paper's alone: ours computes each token whose row does not stand in its place, all of them here.
"""

from __future__ import annotations

from benchmarks.ablations import zero_rows
from benchmarks.systems.engine_system import EngineSystem
from semshare_core import ReusePolicy

ABLATIONS = [
    EngineSystem("ours 0.25, zero rows", ReusePolicy(recompute_ratio=0.25), zero_rows),
    EngineSystem("ours 0.25, random tokens", ReusePolicy(recompute_ratio=0.25, selection="random")),
    EngineSystem("paper 0.2, zero rows", ReusePolicy.paper(0.2, compress=None), zero_rows),
    EngineSystem("paper 0.2, random rows", ReusePolicy.paper(0.2, matching="random", compress=None)),
    EngineSystem("paper 0.2, random tokens", ReusePolicy.paper(0.2, selection="random", compress=None)),
]
