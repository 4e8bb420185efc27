"""Every system of the benchmark's own process, by name."""

from __future__ import annotations

from benchmarks.systems.ablations import ABLATIONS
from benchmarks.systems.full_prefill import FullPrefill, RoundedCache
from benchmarks.systems.ours import LEVELS, RATIOS
from benchmarks.systems.prefix_cache import PrefixCache
from benchmarks.systems.published import PUBLISHED
from benchmarks.systems.retention import RETENTION
from benchmarks.systems.system import System

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (FullPrefill(), RoundedCache(), PrefixCache(), *LEVELS, *RATIOS, *PUBLISHED, *ABLATIONS, *RETENTION)
}
