"""One selection per file; :func:`selection_for` makes the one that a policy names."""

from semshare_core.config import ReusePolicy
from semshare_core.select.base import Evidence, Priority, Selection
from semshare_core.select.combined import CombinedSelection
from semshare_core.slots import SELECTIONS

__all__ = ["CombinedSelection", "Evidence", "Priority", "Selection", "selection_for"]


def selection_for(policy: ReusePolicy) -> Selection:
    """The selection that ``policy`` asks for, with its settings."""
    selection: type[Selection] = SELECTIONS.get(policy.selection)
    return selection.of(policy)
