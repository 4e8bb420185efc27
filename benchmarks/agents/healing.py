"""What the benchmark knows of healing: the switch, idle time, and how much was healed."""

from __future__ import annotations

import time
from typing import Any

from semshare_core import PoolConfig, SemShareEngine

POOL_BYTES = 4 * 2**30
SHARED = "shared"
"""The namespace of what is computed in full once and serves several chains."""


def can_heal() -> bool:
    """Whether this version of the engine computes approximate entries afresh while no call waits."""
    return "heal" in PoolConfig.model_fields


def pool_config(*, heal: bool) -> PoolConfig:
    """The switch is set explicitly, whatever the default is."""
    settings: dict[str, Any] = {"heal": heal} if can_heal() else {}
    return PoolConfig(max_bytes=POOL_BYTES, public_namespace=SHARED, **settings)


def idle(engine: SemShareEngine, seconds: float, since: float) -> None:
    """No call until ``seconds`` after ``since`` (of ``time.perf_counter``), or until nothing is left to be healed.

    What is left of the time after that changes nothing, and is not waited for.
    """
    left = max(0.0, since + seconds - time.perf_counter())
    if can_heal():
        _healing(engine).wait(left)
    else:
        time.sleep(left)


def is_healing(engine: SemShareEngine) -> bool:
    """Whether something is left to be healed."""
    return can_heal() and bool(_healing(engine).counts().waiting)


def healed_rows(engine: SemShareEngine) -> int:
    """Rows computed by healing so far, those in vain included."""
    if not can_heal():
        return 0
    counts = _healing(engine).counts()
    return int(counts.rows + counts.wasted_rows)


def _healing(engine: SemShareEngine) -> Any:
    return engine.healing  # type: ignore[attr-defined]  # of engines that heal
