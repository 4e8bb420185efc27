"""What the demo prints: one table, the answers, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cookbook.demo_chain import ANSWER_TOKENS, Answered

MEANING = (
    "The model is small (SmolLM2-135M-Instruct), so look at what is reused rather than at what it says; the times hold "
    "for this machine and this run. Exact and fuzzy reuse are approximations, and so is a prefix whose own rows were "
    "approximated: where the answers part, the full prefill's is the one to trust."
)


def row(number: int, done: Answered) -> list[str]:
    """The cells of one call, the same on the console and on the page."""
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
        f"{report.recompute_ratio:.2f}",
        seconds(report.ttft_ms),
        seconds(done.full_report.ttft_ms),
        f"{done.speed_up:.1f}×",
        f"{done.agree} of {done.compared}",
    ]


HEADINGS = (
    "",
    "call",
    "outcome",
    "prompt",
    "prefix",
    "exact",
    "fuzzy",
    "new",
    "recomp. ratio",
    "TTFT",
    "full prefill",
    "speed-up",
    "same tokens",
)


def seconds(milliseconds: float) -> str:
    """A time as people read it: two digits that count."""
    return f"{milliseconds / 1e3:.1f} s" if milliseconds >= 1e3 else f"{milliseconds / 1e3:.2f} s"


def table(answered: Sequence[Answered]) -> Table:
    """One row per call."""
    made = Table(title="What was reused, and what it saved", title_justify="left", pad_edge=False, box=None)
    for number, heading in enumerate(HEADINGS):
        made.add_column(heading, justify="left" if number in (1, 2) else "right", no_wrap=number not in (1, 8, 10, 12))
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


def closing(answered: Sequence[Answered]) -> str:
    """The run in two sentences, and what its numbers mean."""
    reused = [done for done in answered if done.report.reused_tokens > done.report.prompt_tokens / 2]
    fresh = [done for done in answered if done not in reused]
    said = []
    if reused:
        parted = sorted(done.agree for done in reused if done.agree < done.compared)
        said.append(
            f"{len(reused)} of {len(answered)} calls reused more than half of their prompt: median speed-up to the "
            f"first token {median(done.speed_up for done in reused):.1f}×. {len(reused) - len(parted)} of them gave "
            f"the full prefill's first {ANSWER_TOKENS} tokens"
            + (f"; the answers of the rest part from it after {', '.join(map(str, parted))} tokens." if parted else ".")
        )
    if fresh:
        said.append(
            f"The remaining {len(fresh)} had next to nothing to reuse and show how steady the clock was: "
            f"{min(done.speed_up for done in fresh):.1f}× to {max(done.speed_up for done in fresh):.1f}×, "
            "where a quiet machine says 1.0×."
        )
    return " ".join((*said, MEANING))


def short(text: str, width: int) -> str:
    """A text on one line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
