"""Made-up material of agents: enough tools, results, files and memories for chains of a few hundred bytes."""

from __future__ import annotations

from benchmarks.corpora.agent_material import AgentMaterial, SourceFile, Tool

MATERIAL = AgentMaterial(
    tools=tuple(Tool(f"tool{number}", f"Does thing {number}.", ("path", "count")) for number in range(12)),
    results=tuple(f"mail {number}\nHello from {number}, nothing new here." for number in range(5)),
    sources=tuple(
        SourceFile(f"lib/file{name}.py", "\n".join(f"def f{name}{line}(x): return x + {line}" for line in range(80)))
        for name in "abc"
    ),
    memories=tuple(f"The user likes subject number {number} very much indeed." for number in range(60)),
)
