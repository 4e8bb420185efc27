"""What each idea behind the selection is worth: ours, less one at a time or with one more, at equal ratios.

Prints the KL of each, which docs/frontier.md explains; out/frontier.json has every call. About 40 minutes with one
thread; nothing is timed, so other work on the machine does no harm.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.runner import Sections, run_sections
from benchmarks.sections.answers import answers
from benchmarks.sections.before_rope import before_rope
from benchmarks.sections.ideas import ideas
from benchmarks.sections.lists import lists
from benchmarks.sections.two_contexts import two_contexts

SECTIONS: Sections = {
    "ideas": (ideas, "ours without one idea at a time, or with one more; 30 min"),
    "two_contexts": (two_contexts, "passages that were read in two contexts (KVCOMM's deviations); 5 min"),
    "lists": (lists, "lists in another order: which rows, and what the forecast says; 4 min"),
    "answers": (answers, "chats: the last answer computed, or reused as other rows are; 10 min"),
    "before_rope": (before_rope, "keys kept before RoPE; 1 min"),
}

if __name__ == "__main__":
    run_sections("benchmarks.frontier", __doc__, SECTIONS, Path("out/frontier.json"))
