"""Chains of prompts to calibrate on: conversations of an agent whose prompt changes at every turn.

Each chain imitates one kind of change (:data:`CHANGES`), or several at once. Its text is Python's language reference
(``semshare_core.calibrate.text``). The answers in its history are the model's own.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from semshare_core.calibrate.text import QUESTIONS, SENTENCE, TextSource, read_passages, replaced
from semshare_core.config import Level, ReusePolicy

Message = dict[str, str]
"""A chat message: ``role`` (system, user, assistant) and ``content``."""

_LEVELS: tuple[Level, ...] = ("high", "balanced", "fast")
_TURNS = (6, 8)
_FIRST_WORDS = (200, 600)  # of the first prompt, drawn evenly on a logarithmic scale; two words have some three tokens
_LAST_WORDS = (500, 1500)  # of the last one, the same
_LONG = (1600, 2700)  # the same for one chain in eight
_LONG_EVERY = 8
_TURN_WORDS = 70  # of question and answer, and of the passage with which a result exceeds its length
_FIXED_EVERY = 5  # one chain in five is served at a fixed ratio, so that the forecast sees large accounts, too
_FIXED_RATIOS = (0.05, 0.085, 0.14, 0.25)
_FILE_WORDS = 220  # a shorter last message is computed as a whole, as the question
_EDITED = (0.02, 0.15)  # of the words of a file that is read again
_ABOUT_A_PHRASE = (
    'What do the results say about "{}"?',
    'Continue the text that begins with "{}".',
    'Explain in one sentence what "{}" means here.',
    'Copy the sentence that has the words "{}".',
    'What comes before "{}", and what comes after it?',
)
_PHRASE_WORDS = (3, 10)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_CLEARED = "[The old result was cleared.]"
_TOOLS = (
    *("read_file", "write_file", "list_folder", "search_text", "run_tests", "open_page", "send_mail", "read_mail"),
    *(
        "find_symbol",
        "rename_symbol",
        "apply_patch",
        "show_log",
        "query_table",
        "plot_values",
        "book_room",
        "translate",
    ),
)
_FIRST_TOOLS = (4, 9)
_ROLES = ("an engineer", "a teacher", "a reviewer", "an editor", "an archivist", "a tester")


@dataclass(frozen=True)
class Chain:
    """One conversation, drawn beforehand except for its answers.

    Attributes:
        id: its name; ``kind``: the kind of change.
        level: the level that serves it. None: the fixed recompute ratio ``ratio`` does.
        turns: the number of prompts.
    """

    id: str
    kind: str
    level: Level | None
    ratio: float | None
    turns: int

    @property
    def policy(self) -> ReusePolicy:
        """What serves the chain."""
        return ReusePolicy(level=self.level, recompute_ratio=self.ratio)

    def prompts(self) -> Generator[list[Message], str, None]:
        """The prompt of each turn. ``next`` gives the first; send the model's answer for the next one.

        Of an answer that was cut, the history keeps the whole sentences: models copy an end that no answer has.
        """
        rng = random.Random(f"turns-{self.id}")
        agent = _Agent.begin(self, rng)
        for turn in range(self.turns):
            if turn:
                for change in CHANGES[self.kind](rng):
                    change(agent, rng)
            agent.read(rng)
            agent.turns[-1].answer = whole_sentences((yield agent.prompt()))


def draw_chains(count: int, seed: int = 0, round_number: int = 1) -> list[Chain]:
    """``count`` chains that go through all kinds in turn. Equal arguments and an equal Python give equal chains."""
    return [_draw(number, seed, round_number) for number in range(count)]


def whole_sentences(text: str) -> str:
    """``text`` up to the end of its last whole sentence; all of it if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else text


def as_text(messages: Sequence[Message]) -> str:
    """The messages as plain text, for models without a chat template."""
    said = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
    return "\n\n".join([*said, "Assistant:"])


def _draw(number: int, seed: int, round_number: int) -> Chain:
    kind = list(CHANGES)[number % len(CHANGES)]
    name = f"{kind}-{seed}-{round_number}-{number}"
    rng = random.Random(f"chain-{name}")
    fixed = rng.randrange(_FIXED_EVERY) == 0
    level, ratio = rng.choice(_LEVELS), rng.choice(_FIXED_RATIOS)
    return Chain(name, kind, None if fixed else level, ratio if fixed else None, rng.randint(*_TURNS))


@dataclass
class _Turn:
    """A tool's result and the user's question, what the assistant thought, and what it answered."""

    tool: str
    result: str
    question: str
    answer: str = ""
    thought: str = ""

    def messages(self) -> Iterator[Message]:
        yield {"role": "user", "content": f"Result of {self.tool}:\n{self.result}\n\n{self.question}"}
        thought = f"<think>\n{self.thought}\n</think>\n\n" if self.thought else ""
        yield {"role": "assistant", "content": thought + self.answer}


@dataclass
class _Agent:
    """All that a prompt is made of.

    Attributes:
        words: that each turn adds.
        spare: tools, memories and system texts that are not in the prompt now.
        file: what every turn reads, each time with more edits; empty: every turn reads something new.
    """

    source: TextSource
    words: int
    persona: str
    turns: list[_Turn] = field(default_factory=list)
    clock: datetime | None = None
    tools: list[str] = field(default_factory=list)
    memories: list[str] = field(default_factory=list)
    spare: dict[str, list[str]] = field(default_factory=dict)
    file: str = ""

    @classmethod
    def begin(cls, chain: Chain, rng: random.Random) -> _Agent:
        """An agent with what the chain's kind changes at its head, and with a short history."""
        source = TextSource(read_passages(), rng, _FIRST_WORDS)
        last = _log_even(_LAST_WORDS if rng.randrange(_LONG_EVERY) else _LONG, rng)
        words = max(1, (last - source.words) // (chain.turns - 1) - _TURN_WORDS)
        personas = [f"You are {role}. {_sentences(source, 2)}" for role in rng.sample(_ROLES, 4)]
        agent = cls(source, words, personas.pop(), spare={"persona": personas})
        everything = chain.kind == "several"
        if everything or chain.kind == "clock":
            agent.clock = datetime(2026, rng.randint(1, 12), rng.randint(1, 28), rng.randint(0, 23), rng.randint(0, 59))
        if everything or chain.kind in ("tools", "tool") or rng.random() < 0.3:
            write = rng.choice((_tool_line, _tool_schema))
            tools = [write(name, _sentences(source, 1)) for name in rng.sample(_TOOLS, len(_TOOLS))]
            first = rng.randint(*_FIRST_TOOLS)
            agent.tools, agent.spare["tool"] = tools[:first], tools[first:]
        if everything or chain.kind == "memories":
            memories = [_sentences(source, 1) for _ in range(10)]
            agent.memories, agent.spare["memory"] = memories[:3], memories[3:]
        if chain.kind == "file":
            agent.file = source.draw_words(max(words, _FILE_WORDS))
        while agent.length < source.words - words:
            agent.read(rng)
            agent.turns[-1].answer = _sentences(source, 1)
        return agent

    def read(self, rng: random.Random) -> None:
        """Begin a turn: the user brings a result and asks about it."""
        result = self.file or self.source.draw_words(self.words)
        self.turns.append(_Turn(rng.choice(_TOOLS), result, ""))
        self.turns[-1].question = self._question(rng)

    def _question(self, rng: random.Random) -> str:
        """About all of the text, or about a phrase of any result that is still there.

        Small models answer general questions as they answered the one before, whatever the rows say.
        """
        if rng.random() < 0.25:
            return rng.choice(QUESTIONS)
        words = rng.choice([turn.result for turn in self.turns if turn.result != _CLEARED]).split()
        length = rng.randint(*_PHRASE_WORDS)
        at = rng.randrange(max(1, len(words) - length))
        return rng.choice(_ABOUT_A_PHRASE).format(" ".join(words[at : at + length]))

    def prompt(self) -> list[Message]:
        """The messages, of which the user's is the last."""
        said = [message for turn in self.turns for message in turn.messages()]
        return [{"role": "system", "content": self._system()}, *said[:-1]]

    @property
    def length(self) -> int:
        """In words."""
        return sum(len(message["content"].split()) for message in self.prompt())

    def _system(self) -> str:
        parts = [f"It is {self.clock:%A, %d %B %Y, %H:%M}."] if self.clock else []
        parts.append(self.persona)
        if self.tools:
            parts.append("\n".join(["Your tools:", *self.tools]))
        if self.memories:
            parts.append("\n- ".join(["What you remember:", *self.memories]))
        return "\n\n".join(parts)


def _tool_line(name: str, told: str) -> str:
    return f"{name}(text): {told}"


def _tool_schema(name: str, told: str) -> str:
    """Most of its wording is that of all the others."""
    text = {"type": "string", "description": f"The text for {name}"}
    parameters = {"type": "object", "properties": {"text": text}, "required": ["text"]}
    return json.dumps({"type": "function", "function": {"name": name, "description": told, "parameters": parameters}})


def _sentences(source: TextSource, count: int) -> str:
    return " ".join(SENTENCE.split(source.draw_words(1))[:count])


def _log_even(range_: tuple[int, int], rng: random.Random) -> int:
    low, high = range_
    return round(low * (high / low) ** rng.random())


# --- what changes from turn to turn ---


def _later(agent: _Agent, rng: random.Random) -> None:
    assert agent.clock is not None
    agent.clock += timedelta(seconds=rng.randint(60, 4000))


def _tools_reordered(agent: _Agent, rng: random.Random) -> None:
    rng.shuffle(agent.tools)


def _tool_added(agent: _Agent, rng: random.Random) -> None:
    agent.tools.insert(rng.randint(0, len(agent.tools)), agent.spare["tool"].pop())


def _results_cleared(agent: _Agent, rng: random.Random) -> None:
    for turn in agent.turns[:-1]:
        turn.result = _CLEARED


def _oldest_dropped(agent: _Agent, rng: random.Random) -> None:
    if len(agent.turns) > 1:
        del agent.turns[0]


def _other_memories(agent: _Agent, rng: random.Random) -> None:
    known = [*agent.memories, *agent.spare["memory"]]
    rng.shuffle(known)
    agent.memories, agent.spare["memory"] = known[:3], known[3:]


def _file_edited(agent: _Agent, rng: random.Random) -> None:
    agent.file = replaced(agent.file, rng.uniform(*_EDITED), (1, 3), rng)


def _other_system(agent: _Agent, rng: random.Random) -> None:
    others = agent.spare["persona"]
    others.insert(0, agent.persona)
    agent.persona = others.pop()


def _thinking_stripped(agent: _Agent, rng: random.Random) -> None:
    for turn in agent.turns[:-1]:
        turn.thought = ""
    agent.turns[-1].thought = _sentences(agent.source, 3)


Change = Callable[[_Agent, random.Random], None]

_SEVERAL: tuple[Change, ...] = (
    *(_later, _tools_reordered, _tool_added, _results_cleared, _oldest_dropped, _other_memories, _other_system),
    _thinking_stripped,
)


def _always(*changes: Change) -> Callable[[random.Random], Sequence[Change]]:
    return lambda rng: changes


CHANGES: Mapping[str, Callable[[random.Random], Sequence[Change]]] = {
    "clock": _always(_later),
    "tools": _always(_tools_reordered),
    "several": lambda rng: rng.sample(_SEVERAL, rng.randint(2, 4)),
    "tool": _always(_tool_added),
    "cleared": _always(_results_cleared),
    "memories": _always(_other_memories),
    "dropped": _always(_oldest_dropped),
    "file": _always(_file_edited),
    "system": _always(_other_system),
    "thinking": _always(_thinking_stripped),
    "unchanged": _always(),
}
"""By kind of chain: what changes before a turn.

``clock``: the time at the head; ``tools``: their order; ``tool``: one more; ``cleared``: old results; ``memories``:
others; ``dropped``: the oldest turn; ``file``: read again after edits; ``system``: another system prompt with the same
history; ``thinking``: it is stripped from all turns but the last; ``several``: some of these at once; ``unchanged``:
the history only grows.
"""
