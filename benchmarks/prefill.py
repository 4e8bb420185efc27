"""Selective against full prefill on the demo model, float32: quality and speed in one run, side by side.

Prints every promise beside what was measured, section by section as they are done; out/prefill.json has every item.
All sections together take about 45 minutes on two quiet cores. Other work on the machine spoils the speed figures.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.runner import Sections, run_sections
from benchmarks.sections.codes import codes
from benchmarks.sections.exact import exact
from benchmarks.sections.matching import matching
from benchmarks.sections.methods import methods
from benchmarks.sections.miss import miss
from benchmarks.sections.paraphrase import paraphrase
from benchmarks.sections.shuffled import shuffled

SECTIONS: Sections = {
    "exact": (exact, "greedy output as model.generate's; a shared prefix; 5 min"),
    "shuffled": (shuffled, "passages in another order, edited; 10 min"),
    "paraphrase": (paraphrase, "chapters in two translations; 4 min"),
    "codes": (codes, "facts that changed; 7 min"),
    "miss": (miss, "nothing to reuse; 3 min"),
    "matching": (matching, "8,000 x 8,000 tokens; 1 min"),
    "methods": (methods, "the published methods beside ours; 5 min"),
}

if __name__ == "__main__":
    run_sections("benchmarks.prefill", __doc__, SECTIONS, Path("out/prefill.json"))
