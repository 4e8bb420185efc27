"""How reuse works under a policy, apart from how much is recomputed: calibrations and promises hold for one method."""

from __future__ import annotations

from semshare_core.config import ReusePolicy

_SETTINGS = (
    *("schedule", "selection", "matching", "min_similarity", "min_run", "halo", "seam_halo"),
    *("fresh_tail", "max_references", "max_depth", "compress"),
)


def method_of(policy: ReusePolicy) -> str:
    """What ``policy`` does otherwise than models are calibrated: ``matching='lsh', halo=0``; empty if nothing."""
    ours = ReusePolicy()
    changed = [name for name in _SETTINGS if getattr(policy, name) != getattr(ours, name)]
    return ", ".join(f"{name}={getattr(policy, name)!r}" for name in changed)
