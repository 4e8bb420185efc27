"""Ours at ratio 0.25 with ever fewer rows kept for decoding; 0.96 a layer is our reading of the paper's retention."""

from __future__ import annotations

from benchmarks.systems.engine_system import EngineSystem
from semshare_core import Retention, ReusePolicy

DECAYS = (0.99, 0.98, 0.96, 0.93, 0.9)
PAPER = f"ours 0.25, retention {Retention().decay}"

RETENTION = [
    EngineSystem(f"ours 0.25, retention {decay}", ReusePolicy(recompute_ratio=0.25, compress=Retention(decay=decay)))
    for decay in DECAYS
]
