"""What a selective prefill costs, part by part, beside the full prefill, and how far it is from the least it could.

One thread, in processor time, which other work on the machine changes least. Prints the cost model, whose terms
docs/performance.md explains; out/cost.json has every call. About 8 minutes.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.runner import Sections, run_sections
from benchmarks.sections.cost import cost

SECTIONS: Sections = {"cost": (cost, "seconds per token of each kind; 8 min")}

if __name__ == "__main__":
    run_sections("benchmarks.cost", __doc__, SECTIONS, Path("out/cost.json"))
