"""The method of a policy: how it reuses rows, apart from how many it recomputes. A calibration holds for one method."""

from __future__ import annotations

from semshare_core.config import ReusePolicy

_SETTINGS = (
    *("schedule", "selection", "matching", "min_similarity", "min_run", "halo", "seam_halo"),
    *("fresh_tail", "max_references", "compress"),
)


def method_of(policy: ReusePolicy) -> str:
    """The settings that differ from the calibrated method, such as ``matching='lsh', halo=0``; empty if none differ."""
    ours = ReusePolicy()
    changed = [name for name in _SETTINGS if getattr(policy, name) != getattr(ours, name)]
    return ", ".join(f"{name}={getattr(policy, name)!r}" for name in changed)
