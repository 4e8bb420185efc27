"""SemShareKV (Zhao & Mastorakis, arXiv 2509.24832), as far as its constants could be had (``docs/paper.md``).

One similar prompt serves everything behind the prefix by fuzzy matching (``lsh.py``). Tokens of high deviation are
recomputed, ever fewer from layer to layer (``selection.py`` and the schedule ``decay``). Deeper layers keep fewer rows
for decoding (``retention.py``).
"""

from typing import Any

from semshare_core.baselines.semsharekv.lsh import LshMatcher
from semshare_core.baselines.semsharekv.retention import Retention
from semshare_core.baselines.semsharekv.selection import PaperSelection
from semshare_core.slots import PRESETS

__all__ = ["LshMatcher", "PaperSelection", "Retention", "preset"]


@PRESETS.register("paper")
def preset() -> dict[str, Any]:
    """What :meth:`semshare_core.ReusePolicy.paper` sets."""
    return {
        "matching": "lsh",
        "max_references": 1,
        "selection": "paper",
        "schedule": "decay",
        "compress": Retention(),
    }
