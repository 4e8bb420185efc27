"""What the benchmark knows of healing: the switch, idle time, and how much was healed."""

from __future__ import annotations

import time

from semshare_core import PoolConfig, SemShareEngine

POOL_BYTES = 4 * 2**30
SHARED = "shared"
"""The namespace of what is computed in full once and serves several chains."""


def pool_config(*, heal: bool) -> PoolConfig:
    """The switch is set explicitly, whatever the default is."""
    return PoolConfig(max_bytes=POOL_BYTES, public_namespace=SHARED, heal=heal)


def idle(engine: SemShareEngine, seconds: float, since: float) -> None:
    """No call until ``seconds`` after ``since`` (of ``time.perf_counter``), or until nothing is left to be healed.

    What is left of the time after that changes nothing, and is not waited for.
    """
    engine.healing.wait(max(0.0, since + seconds - time.perf_counter()))


def is_healing(engine: SemShareEngine) -> bool:
    """Whether something is left to be healed."""
    return bool(engine.healing.counts().waiting)


def healed_rows(engine: SemShareEngine) -> int:
    """Rows computed by healing so far, those in vain included."""
    counts = engine.healing.counts()
    return counts.rows + counts.wasted_rows
