"""What the demo prints: the numbers that matter, a table with every number, the answers, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cookbook.demo_chain import Answered
from cookbook.demo_summary import closeness, key_numbers, seconds

HEADINGS = (
    "",
    "question",
    "outcome",
    "prompt",
    "prefix",
    "moved",
    "fuzzy",
    "new",
    "computed",
    "first token",
    "full prefill",
    "speed-up",
    "KL",
    "same tokens",
)


def row(number: int, done: Answered) -> list[str]:
    """The cells of one question, the same on the console and on the page."""
    report = done.report
    return [
        str(number),
        done.ask.kind,
        report.outcome,
        f"{report.prompt_tokens:,}",
        f"{report.prefix_tokens:,}",
        f"{report.moved_tokens:,}",
        f"{report.fuzzy_tokens:,}",
        f"{report.new_tokens:,}",
        f"{report.recompute_ratio:.0%}",
        seconds(report.ttft_ms),
        seconds(done.full_report.ttft_ms),
        f"{done.speed_up:.1f}×",
        closeness(done),
        f"{done.agree} of {done.compared}",
    ]


def summary(answered: Sequence[Answered]) -> Table:
    """The numbers that matter, one a line."""
    made = Table.grid(padding=(0, 2))
    made.add_column(justify="right", style="bold", no_wrap=True)
    for number in key_numbers(answered):
        made.add_row(number.value, number.meaning)
    return made


def table(answered: Sequence[Answered]) -> Table:
    """One row per question."""
    made = Table(title="Prompt tokens by source, and times", title_justify="left", pad_edge=False, box=None)
    for number, heading in enumerate(HEADINGS):
        made.add_column(heading, justify="left" if number in (1, 2) else "right", no_wrap=number not in (1, 9, 10, 13))
    for number, done in enumerate(answered, start=1):
        made.add_row(*row(number, done), style=None if done.report.outcome != "miss" else "dim")
    return made


def answers(answered: Sequence[Answered], width: int = 100) -> RenderableType:
    """Questions and answers, cut to a line each; the full prefill's answer where it differs."""
    lines = []
    for number, done in enumerate(answered, start=1):
        lines.append(Text(f"{number:2}  {done.ask.text}", style="bold"))
        lines.append(Text(f"    {short(done.answer, width)}"))
        if done.answer != done.full_answer:
            lines.append(Text(f"    full prefill: {short(done.full_answer, width)}", style="dim"))
    return Group(*lines)


def short(text: str, width: int) -> str:
    """A text on one line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
