"""What a part is worth: methods that do without it. Importing this package registers them in the slots.

Matching ``random``; selections ``random``, ``seams``, ``epic``, ``whole_passages``, ``old_answers`` and
``non_exact``; and :func:`zero_rows`, a context.
"""

from benchmarks.ablations.epic import EpicSelection, epic_ratio
from benchmarks.ablations.non_exact import NonExactSelection
from benchmarks.ablations.old_answers import OldAnswers
from benchmarks.ablations.random_matching import RandomMatcher
from benchmarks.ablations.random_selection import RandomSelection
from benchmarks.ablations.seams import SeamSelection
from benchmarks.ablations.whole_passages import WholePassages
from benchmarks.ablations.zero_rows import zero_rows

__all__ = [
    "EpicSelection",
    "NonExactSelection",
    "OldAnswers",
    "RandomMatcher",
    "RandomSelection",
    "SeamSelection",
    "WholePassages",
    "epic_ratio",
    "zero_rows",
]
