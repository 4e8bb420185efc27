"""What the demo prints: the numbers that matter, a line per question, and the answers. It fits 80 columns."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cookbook.demo_chain import Answered
from cookbook.demo_summary import key_numbers, numbers

_BREAK = re.compile(r"\s*\n\s*")
_COLUMNS = ("question", "first token", "full prefill", "speed-up", "rows computed", "KL")


def summary(answered: Sequence[Answered]) -> Table:
    """The numbers that matter, one a line."""
    made = Table.grid(padding=(0, 2))
    made.add_column(justify="right", style="bold", no_wrap=True)
    for number in key_numbers(answered):
        made.add_row(number.value, number.meaning)
    return made


def table(answered: Sequence[Answered]) -> Table:
    """A line per question: the time to its first token, and how close its answer is."""
    made = Table(pad_edge=False, box=None)
    made.add_column("", justify="right")
    for name in _COLUMNS:
        words = name == "question"
        made.add_column(name, justify="left" if words else "right", no_wrap=words, min_width=6)
    for number, done in enumerate(answered, start=1):
        cells = numbers(done)
        style = "dim" if done.report.outcome == "miss" else None
        made.add_row(str(number), *(cells[name] for name in _COLUMNS), style=style)
    return made


def answers(answered: Sequence[Answered], width: int) -> RenderableType:
    """Questions and answers, cut to a line each; the full prefill's answer where it differs."""
    lines = []
    for number, done in enumerate(answered, start=1):
        lines.append(Text(_short(f"{number:2}  {done.ask.text}", width), style="bold"))
        lines.append(Text(_short(f"    {done.answer}", width)))
        if done.answer != done.full_answer:
            lines.append(Text(_short(f"    full prefill: {done.full_answer}", width), style="dim"))
    return Group(*lines)


def _short(text: str, width: int) -> str:
    """A text on one line of at most ``width`` characters."""
    line = _BREAK.sub(" ", text)
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
