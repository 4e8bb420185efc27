"""Agents turn after turn: each prompt is the last one, grown by a tool result and changed as agents change prompts.

What an agent answers is recorded, so that the prompts are the same for every system. :data:`EDITS` says what changes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from benchmarks.corpora.agent_material import AgentMaterial
from benchmarks.workloads.agent_steps import Ask, AskKind, Step, StepMaker
from benchmarks.workloads.multi_turn import Message
from benchmarks.workloads.passages import CountTokens

EDITS = {
    "stable": "nothing old changes",
    "clock": "another time in the system prompt's first line",
    "tools reordered": "the tools in another order",
    "tool added": "one tool more, anywhere in the list",
    "compaction": "the oldest tool result that is left is cleared",
    "window": "the oldest step is dropped",
    "memories": "other memories of the user in the system prompt",
    "reread": "a part of a file is read again after an edit",
    "subagent": "another system prompt, with fewer tools",
    "thinking": "the last answer's thinking is stripped, the newest one has its own",
    "all": "all of these at once, but the subagent",
}
KINDS: tuple[AskKind, ...] = ("call", "copy", "call", "gone")
"""What the turns ask, one after the other. Where nothing has been cleared, "gone" becomes "say"."""
ROLES = (
    "You are an agent that works for its user with tools.",
    "You are a reviewer. You read what other agents found and look for mistakes in it.",
    "You are a tester. You think of inputs that break what you are shown.",
    "You are a technical writer. You explain what you are shown to newcomers.",
    "You are a planner. You decide what has to be done next, and in which order.",
    "You are a security auditor. You trust no input and say where it goes.",
    "You are a search agent. You find the place that a question is about.",
    "You are a refactoring agent. You make code simpler and keep what it does.",
)
RULES = (
    "Answer from the tool results alone.",
    "Be brief, and name the file that you speak of.",
    "Never guess what you have not been shown.",
    "If something is unclear, say so in one sentence.",
    "Prefer the newest result where two of them differ.",
)
LENGTHS = (900, 500, 1300, 700)
"""Tokens at the end of the shorter chains."""
_CLEARED_RULE = "If you are asked for a result that was cleared, answer: That content is gone."
_MESSAGE_TOKENS = 5
"""What a chat template adds to a message, roughly."""
_STEP_TOKENS = 380
"""Where a turn adds much, it adds several results of about this length."""
_STARTED = datetime(2026, 3, 14, 9, 26, 53)


@dataclass(frozen=True)
class Sizes:
    """How long the prompts are, in tokens.

    The second turn reads files. After that a turn adds little: were a chain to grow evenly from 1,000 to 4,000 tokens
    in eight turns, a fifth to a tenth of each prompt would be new text, which nobody has computed before.

    Attributes:
        first, second, last: of these prompts of a chain; those between the second and the last grow evenly.
        tools, memories: in the system prompt.
        history: steps in the first prompt.
    """

    first: int = 1000
    second: int = 3300
    last: int = 4000
    tools: int = 8
    memories: int = 4
    history: int = 6

    def of(self, turn: int, turns: int) -> int:
        """The wanted length of prompt ``turn`` of ``turns``, counted from 0."""
        if turn == 0:
            return self.first
        rest = (turn - 1) / max(turns - 2, 1)
        return round(self.second + rest * (self.last - self.second))


@dataclass(frozen=True)
class ChainTurn:
    """One prompt, and what it asks. Of messages the last one may be the beginning of the answer."""

    prompt: tuple[Message, ...] | str
    ask: Ask


@dataclass(frozen=True)
class Chain:
    id: str
    edit: str
    turns: tuple[ChainTurn, ...]


def agent_chain(
    material: AgentMaterial,
    count_tokens: CountTokens,
    edit: str,
    *,
    turns: int = 8,
    sizes: Sizes | None = None,
    offset: int = 0,
    seed: str = "0",
) -> Chain:
    """A chain of ``turns`` prompts under one of :data:`EDITS`; ``offset`` moves where :data:`KINDS` begins.

    Raises:
        ValueError: the edit is not known.
    """
    if edit not in EDITS:
        raise ValueError(f"unknown edit {edit!r}: choose of {', '.join(EDITS)}")
    name = f"agent-{seed}-{edit.replace(' ', '-')}"
    session = _Session(material, count_tokens, edit, sizes or Sizes(), random.Random(name))
    made = [session.turn(number, turns, KINDS[(number + offset) % len(KINDS)]) for number in range(turns)]
    return Chain(name, edit, tuple(made))


class _Session:
    """An agent's prompt as it changes."""

    def __init__(
        self, material: AgentMaterial, count_tokens: CountTokens, edit: str, sizes: Sizes, rng: random.Random
    ) -> None:
        self._material, self._count, self._sizes, self._rng = material, count_tokens, sizes, rng
        self._edit = edit
        self._tools = rng.sample(material.tools, sizes.tools)
        self._memories = rng.sample(material.memories, sizes.memories)
        self._role, self._clock = ROLES[0], _STARTED
        self._hidden: frozenset[str] = frozenset()
        self._steps: list[Step] = []
        self._maker = StepMaker(material, count_tokens, rng)

    def turn(self, number: int, turns: int, kind: AskKind) -> ChainTurn:
        if number:
            self._change(number)
        steps = self._sizes.history if number == 0 else 1
        need = self._sizes.of(number, turns) - self._tokens()
        if number == 1:
            steps = max(1, round(need / _STEP_TOKENS))
        for place in range(steps):
            size = (self._sizes.of(number, turns) - self._tokens()) // (steps - place)
            asked = kind if place == steps - 1 else "call"
            again = self._wants("reread") and number > 1
            self._steps.append(self._maker.step(size, asked, self._steps, self._tools, again=again))
        last = self._steps[-1]
        messages = [*self._messages()[:-1], *([{"role": "assistant", "content": last.cue}] if last.cue else [])]
        return ChainTurn(tuple(messages), last.ask)

    def _wants(self, edit: str) -> bool:
        return self._edit == edit or (self._edit == "all" and edit != "subagent")

    def _change(self, number: int) -> None:
        rng = self._rng
        if self._wants("clock"):
            self._clock += timedelta(seconds=rng.randint(20, 4000))
        if self._wants("tools reordered"):
            before = list(self._tools)
            while self._tools == before:
                rng.shuffle(self._tools)
        if self._wants("tool added"):
            known = {tool.name for tool in self._tools}
            fresh = rng.choice([tool for tool in self._material.tools if tool.name not in known])
            self._tools.insert(rng.randint(0, len(self._tools)), fresh)
        if self._wants("memories"):
            others = [memory for memory in self._material.memories if memory not in self._memories]
            self._memories = rng.sample(others, self._sizes.memories)
        if self._wants("window") and (self._edit == "window" or number % 2) and len(self._steps) > 2:
            del self._steps[0]
        if self._wants("compaction"):
            old = [step for step in self._steps[:-2] if not step.cleared]
            if old:
                old[0].cleared = True
        if self._edit == "subagent":
            self._role = ROLES[number % len(ROLES)] + " " + " ".join(rng.sample(RULES, 3))
            self._hidden = frozenset(tool.name for tool in rng.sample(self._tools, 2))

    def _messages(self) -> list[Message]:
        made: list[Message] = [{"role": "system", "content": self._system()}]
        for place, step in enumerate(self._steps):
            newest = place == len(self._steps) - 2
            thinking = step.thinking if newest and self._wants("thinking") else ""
            made.append({"role": "user", "content": step.shown})
            made.append({"role": "assistant", "content": thinking + step.answer})
        return made

    def _system(self) -> str:
        tools = [
            f"- {tool.name}({', '.join(tool.parameters)}): {tool.description}"
            for tool in self._tools
            if tool.name not in self._hidden
        ]
        return "\n".join(
            [
                f"Current time: {self._clock:%Y-%m-%d %H:%M:%S}.",
                f"{self._role} {_CLEARED_RULE}",
                "Tools:",
                *tools,
                "What you remember of the user:",
                *(f"- {memory}" for memory in self._memories),
            ]
        )

    def _tokens(self) -> int:
        contents = [message["content"] for message in self._messages()]
        return self._count("\n".join(contents)) + _MESSAGE_TOKENS * len(contents)


def chains(
    material: AgentMaterial,
    count_tokens: CountTokens,
    edits: Sequence[str],
    *,
    count: int,
    turns: int,
    seed: str,
) -> list[Chain]:
    """``count`` shorter chains of various lengths (:data:`LENGTHS` at their end), the edits in turn."""
    made = []
    for number in range(count):
        last = LENGTHS[number // len(edits) % len(LENGTHS)]
        sizes = Sizes(first=last // 2, second=2 * last // 3, last=last, tools=3, memories=2, history=1)
        edit = edits[number % len(edits)]
        made.append(
            agent_chain(material, count_tokens, edit, turns=turns, sizes=sizes, offset=number, seed=f"{seed}-{number}")
        )
    return made
