"""An agent at work, replayed: every turn appends what a tool returned and what was answered to it.

With a growing history the prompts share ever longer prefixes. With a sliding window the oldest turn falls out after the
system message, so that all that remains has moved and no prefix cache finds more than the system message.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.case import Case
from benchmarks.workloads.multi_turn import Message
from benchmarks.workloads.passages import CountTokens, pack_passages

History = Literal["growing", "window"]
SYSTEM = (
    "You are an agent that reads a library for its user. Each turn, a tool shows you one more page. "
    "Note what the page says before you ask for the next one, and rely on nothing but the pages."
)
TASKS = (
    "Compare this page with the ones before it, in two sentences.",
    "What does this page add to the ones before it?",
    "Sum up what the pages have said so far.",
    "Which of the pages so far matters most, and why?",
)


@dataclass(frozen=True)
class Session:
    """The messages of each turn, [user: tool result and task, assistant: answer], behind one system message."""

    id: str
    turns: tuple[tuple[Message, Message], ...]

    def prompt(self, turn: int, kept: int) -> tuple[Message, ...]:
        """What the model is given at ``turn``: the system message, the last ``kept`` turns before it, and its own."""
        before = [message for each in self.turns[max(0, turn - kept) : turn] for message in each]
        return ({"role": "system", "content": SYSTEM}, *before, self.turns[turn][0])


def agent_replay(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    history: History,
    count: int = 10,
    turns: int = 7,
    window: int = 4,
    tool_tokens: tuple[int, int] = (180, 300),
    seed: int = 0,
) -> list[Case]:
    """``count`` sessions of ``turns`` turns, one case each: the last turn after all the earlier ones.

    ``growing`` keeps every turn, ``window`` the last ``window`` before the current one; that is the setting.
    Tool results are passages of the texts, ``tool_tokens`` long (least, most), no two of a session from one text.

    Raises:
        ValueError: a window that nothing falls out of, or too few texts.
    """
    if history == "window" and window >= turns - 1:
        raise ValueError(f"nothing falls out of a window of {window} turns by turn {turns}: make it smaller")
    kept = window if history == "window" else turns
    return [
        Case(
            id=f"{session.id}-{history}",
            workload="agent replay",
            references=tuple(session.prompt(turn, kept) for turn in range(turns - 1)),
            target=session.prompt(turns - 1, kept),
            setting=history,
        )
        for session in sessions(texts, count_tokens, count=count, turns=turns, tool_tokens=tool_tokens, seed=seed)
    ]


def sessions(
    texts: Sequence[str],
    count_tokens: CountTokens,
    *,
    count: int,
    turns: int,
    tool_tokens: tuple[int, int] = (180, 300),
    seed: int = 0,
) -> list[Session]:
    """Sessions whose answers quote the page that they answer: recorded text, the same for every model and system."""
    return [
        Session(name, tuple(_turn(number, page, rng) for number, page in enumerate(pages)))
        for name in (f"agent-replay-{seed}-{number}" for number in range(count))
        for rng in [random.Random(name)]
        for pages in [_pages(texts, count_tokens, turns, tool_tokens, rng)]
    ]


def _pages(
    texts: Sequence[str], count_tokens: CountTokens, turns: int, size: tuple[int, int], rng: random.Random
) -> list[str]:
    pages: list[str] = []
    for text in rng.sample(texts, len(texts)):
        page = next(pack_passages([text], count_tokens, *size, rng), None)
        if page is not None:
            pages.append(page)
        if len(pages) == turns:
            return pages
    raise ValueError(f"{len(pages)} of the source texts have passages of {size} tokens, {turns} are needed")


def _turn(number: int, page: str, rng: random.Random) -> tuple[Message, Message]:
    lines = page.split("\n")
    asked = f"Tool read_page returned:\n{page}\n\n{rng.choice(TASKS)}"
    answer = f"Page {number + 1} begins with this: {lines[0].strip()} It ends with this: {lines[-1].strip()}"
    return {"role": "user", "content": asked}, {"role": "assistant", "content": answer}
