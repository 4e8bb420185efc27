"""The pool: what it finds, how fast, how much it holds, and what it survives.

Prints every promise beside what was measured; out/pool.json has every item. Sections that measure speed want the
machine for themselves.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.runner import Sections, run_sections
from benchmarks.sections.chunks import chunks
from benchmarks.sections.disk import disk
from benchmarks.sections.drift import drift
from benchmarks.sections.healing import healing
from benchmarks.sections.kill import kill
from benchmarks.sections.memory import memory
from benchmarks.sections.scale import scale
from benchmarks.sections.soak import soak
from benchmarks.sections.tenants import tenants
from benchmarks.sections.threads import threads

SECTIONS: Sections = {
    "scale": (scale, "a hundred thousand entries; 5 min"),
    "chunks": (chunks, "eight chunks out of eight earlier prompts; 8 min"),
    "drift": (drift, "twenty turns, each a paraphrase of the last; 5 min"),
    "disk": (disk, "what rows on disk cost; 1 min"),
    "kill": (kill, "killed 200 times while writing; 3 min"),
    "threads": (threads, "sixteen threads under a tiny budget; 5 min"),
    "memory": (memory, "what a call holds in memory at most; 2 min"),
    "tenants": (tenants, "two namespaces, 500 prompts each; 3 min"),
    "soak": (soak, "eight threads for half an hour (--minutes); only when it is asked for"),
    "healing": (healing, "calls, clears and kills while prompts are healed (--minutes); only when it is asked for"),
}

if __name__ == "__main__":
    run_sections("benchmarks.pool", __doc__, SECTIONS, Path("out/pool.json"), asked=["soak", "healing"])
