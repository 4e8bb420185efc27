"""The steps of an agent: what a tool showed, what is asked about it, and the answer that is recorded."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.corpora.agent_material import AgentMaterial, Tool
from benchmarks.workloads.passages import CountTokens, cut_to_tokens
from benchmarks.workloads.shuffled_edits import replace_words

AskKind = Literal["call", "copy", "gone", "place", "say"]
SPAN = 10
"""Lines of a verbatim copy; the first one is given."""
CLEARED = "[Old tool result content cleared]"
GONE = "That content is gone."
CALL_CUE = '<tool_call>\n{"name": "'
SAY = (
    "Say in one sentence what this shows.",
    "What should be looked at next, and why?",
    "Compare this with the result before it, in one sentence.",
)
_RESULT_SHARE = 0.3
"""So many of the short results are a mail, a file or an event; the others are source code."""
_SHORT = 120
_LEAST = 40
_TASK_TOKENS = 60
_TELLING = 12
"""Characters of a line that tells one result from others."""


@dataclass(frozen=True)
class Ask:
    """What the newest step asks.

    Attributes:
        kind: ``call``: a tool call · ``copy``: lines of a result, word by word · ``gone``: what a cleared result said ·
            ``place``: a name by its place in a list · ``say``: a sentence.
        expected: the text that should follow the prompt; empty where any may.
        stale: what an earlier prompt would be answered with: the first line of what was cleared, the name that stood at
            the place before.
    """

    kind: AskKind
    expected: str = ""
    stale: str = ""


@dataclass
class Step:
    """A tool result, a task and its answer. ``cue`` is the beginning of the answer while it is asked for."""

    label: str
    result: str
    task: str
    cue: str
    answer: str
    thinking: str
    ask: Ask
    is_source: bool
    cleared: bool = False

    @property
    def first_line(self) -> str:
        """Of the result, whether it was cleared or not."""
        return self.result.split("\n")[0].strip()

    @property
    def shown(self) -> str:
        """The user's message."""
        body = CLEARED if self.cleared else self.result
        return f"<tool_response>\n{self.label}\n{body}\n</tool_response>\n\n{self.task}"


class StepMaker:
    """Makes steps out of the material, by a random order of its own."""

    def __init__(self, material: AgentMaterial, count_tokens: CountTokens, rng: random.Random) -> None:
        self._material, self._count, self._rng = material, count_tokens, rng

    def step(self, tokens: int, kind: AskKind, before: Sequence[Step], tools: Sequence[Tool], *, again: bool) -> Step:
        """A step of about ``tokens`` tokens. ``again``: a file of the steps before is read again after an edit."""
        room = max(_LEAST, tokens - _TASK_TOKENS)
        read = [step for step in before if step.is_source and not step.cleared]
        if again and read:
            label, result, is_source = self._edited(self._rng.choice(read), room)
        else:
            label, result, is_source = self._result(room)
        lines = result.split("\n")
        thinking = (
            f"<think>\nI was shown {label}. It begins with {lines[0].strip()!r} and ends with {lines[-1].strip()!r}. "
            "Nothing else is needed for this task, so I answer it from what I have seen so far.\n</think>\n"
        )
        made = Step(label, result, "", "", "", thinking, Ask("say"), is_source)
        if not (kind == "copy" and self._copy(made, before)) and not (kind == "gone" and self._gone(made, before)):
            if kind in ("gone", "say"):
                self._say(made)
            else:
                self._call(made, tools)
        return made

    def _result(self, tokens: int) -> tuple[str, str, bool]:
        rng = self._rng
        if tokens <= _SHORT and rng.random() < _RESULT_SHARE:
            number = rng.randrange(len(self._material.results))
            return f"result {number}", cut_to_tokens(self._material.results[number], tokens, self._count), False
        source = rng.choice(self._material.sources)
        lines = source.text.split("\n")
        start = rng.choice([place for place in range(len(lines) - 20) if lines[place].strip()])
        taken = self._lines(lines[start:], tokens)
        return f"{source.path}, lines {start + 1} to {start + len(taken)}", "\n".join(taken), True

    def _edited(self, read: Step, tokens: int) -> tuple[str, str, bool]:
        """The beginning of what was read, a word of which is another one in every eighth line."""
        taken = self._lines(read.result.split("\n"), tokens)
        chosen = self._rng.sample(range(len(taken)), max(1, len(taken) // 8))
        for place in chosen:
            words = taken[place].split()
            if len(words) > 1:
                [taken[place]], _, _ = replace_words([taken[place]], 1 / len(words), self._rng)
            else:
                taken[place] += "  # checked"
        return read.label, "\n".join(taken), True

    def _lines(self, lines: Sequence[str], tokens: int) -> list[str]:
        """The first lines that have about ``tokens`` tokens."""
        taken: list[str] = []
        held = 0
        for line in lines:
            held += self._count(line) + 1
            if taken and held > tokens:
                break
            taken.append(line)
        while len(taken) > 1 and not taken[-1].strip():
            taken.pop()
        return taken

    def _call(self, step: Step, tools: Sequence[Tool]) -> None:
        tool = self._rng.choice(tools)
        values = dict(zip(tool.parameters[:2], (step.label.split(",")[0], str(self._rng.randint(2, 99))), strict=False))
        told = ", ".join(f"{name} = {value}" for name, value in values.items())
        step.task = f"Make one tool call: {tool.description} Arguments: {told}."
        step.cue = CALL_CUE
        call = json.dumps({"name": tool.name, "arguments": values})
        step.answer = f"<tool_call>\n{call}\n</tool_call>"
        step.ask = Ask("call")

    def _copy(self, step: Step, before: Sequence[Step]) -> bool:
        """Asks for ten lines of a result that the prompt still has. False: none is long enough."""
        shown = [each for each in (*before, step) if each.is_source and not each.cleared]
        everything = "\n".join(each.result for each in shown).split("\n")
        places = [
            (each, at)
            for each in shown
            for lines in [each.result.split("\n")]
            for at in range(len(lines) - SPAN + 1)
            if len(lines[at].split()) > 1 and everything.count(lines[at]) == 1
        ]
        if not places:
            return False
        source, at = self._rng.choice(places)
        span = source.result.split("\n")[at : at + SPAN]
        step.task = f"Copy {SPAN} lines of {source.label}, word by word, beginning with this one: {span[0].strip()}"
        step.cue = f"```\n{span[0]}"
        step.answer = "```\n" + "\n".join(span) + "\n```"
        step.ask = Ask("copy", expected="\n" + "\n".join(span[1:]))
        return True

    def _gone(self, step: Step, before: Sequence[Step]) -> bool:
        """Asks for a cleared result. False: none was cleared whose first line stands nowhere else."""
        told = "\n".join(f"{each.shown}\n{each.answer}" for each in (*before, step))
        cleared = [each for each in before if each.cleared and len(each.first_line) >= _TELLING]
        cleared = [each for each in cleared if each.first_line not in told]
        if not cleared:
            return False
        asked = self._rng.choice(cleared)
        step.task = f"What did {asked.label} say? Repeat its first line."
        step.answer = GONE
        step.ask = Ask("gone", expected=GONE, stale=asked.first_line)
        return True

    def _say(self, step: Step) -> None:
        step.task = self._rng.choice(SAY)
        step.answer = f"It begins with {step.first_line!r}."
        step.ask = Ask("say")
