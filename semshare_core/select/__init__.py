"""One strategy per file; :func:`selection_for` picks the one that a policy names."""

from semshare_core.config import ReusePolicy
from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.select.combined import CombinedSelection
from semshare_core.select.deviation import DeviationSelection
from semshare_core.select.non_exact import NonExactSelection
from semshare_core.select.paper import PaperSelection
from semshare_core.select.random import RandomSelection
from semshare_core.select.seams import SeamSelection

__all__ = ["Evidence", "Priority", "Selection", "selection_for"]


def selection_for(policy: ReusePolicy) -> Selection:
    """The strategy that ``policy`` asks for, with its settings."""
    if policy.selection == "combined":
        return CombinedSelection(halo=policy.halo, seam_halo=policy.seam_halo)
    if policy.selection == "deviation":
        return DeviationSelection()
    if policy.selection == "non_exact":
        return NonExactSelection(halo=policy.halo)
    if policy.selection == "seams":
        return SeamSelection(halo=policy.seam_halo)
    if policy.selection == "paper":
        return PaperSelection()
    return RandomSelection(seed=policy.seed)
