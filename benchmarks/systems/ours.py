"""SemShare: by level, where the governor chooses, and at fixed recompute ratios."""

from __future__ import annotations

from benchmarks.systems.engine_system import EngineSystem
from semshare_core import ReusePolicy
from semshare_core.budget.levels import BOUNDS

LEVELS = [EngineSystem(f"ours {level}", ReusePolicy.model_validate({"level": level})) for level in BOUNDS]
RATIOS = [
    EngineSystem(f"ours {ratio}", ReusePolicy(recompute_ratio=ratio))
    for ratio in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.7)
]
