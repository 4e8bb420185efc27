"""What each idea behind the selection is worth: ours, less one at a time or with one more, at equal ratios.

Prints the KL of each, which docs/frontier.md explains; out/frontier.json has every call. About 12 minutes with one
thread; nothing is timed, so other work on the machine does no harm.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.runner import Sections, run_sections
from benchmarks.sections.ideas import ideas

SECTIONS: Sections = {"ideas": (ideas, "ours without one idea at a time, or with one more; 12 min")}

if __name__ == "__main__":
    run_sections("benchmarks.frontier", __doc__, SECTIONS, Path("out/frontier.json"))
