"""The demo's page: what reuse saved, where every passage came from, how close the answers are.

One file without scripts, which loads nothing: the picture first, every number and every token folded up below it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cookbook.demo_chain import Answered, same_beginning
from cookbook.demo_figure import figure
from cookbook.demo_passages import Prompt
from cookbook.demo_summary import closeness, key_numbers, notes, numbers, promise, questions, seconds
from semshare_core import ReuseReport
from semshare_core.report import colours
from semshare_core.report.token_strip import SOURCES

_STYLE = Path(__file__).with_name("demo_page.css")
_TINT = "59"  # how much of a colour lies behind text, as the alpha of a CSS colour: about a third

_HOW_TO_READ = (
    "The bars show the time from the prompt to the first token. A letter names a passage of the documentation. The "
    "ribbons lead from its place in an earlier prompt, which has it too, to its place in this one.",
    "KL(full prefill || SemShare), in nats, says how far the probabilities of the next token lie from those after a "
    "full prefill; it is the mean over the answer’s tokens. At 0 they are the same. Where two tokens are almost "
    "equally likely, a small KL is enough to part the answers.",
)


@dataclass(frozen=True)
class Shown:
    """One question on the page: what came of it, its prompt, and the earlier prompts that its passages stood in."""

    done: Answered
    prompt: Prompt
    before: Sequence[Prompt]


def render(shown: Sequence[Shown]) -> str:
    """The whole page."""
    answered = [each.done for each in shown]
    longest = max((ms for done in answered for ms in (done.report.ttft_ms, done.full_report.ttft_ms)), default=1.0)
    sections = "\n".join(_section(each, longest) for each in shown)
    tiles = "".join(
        f"<div><dt>{_text(each.meaning)}</dt><dd>{_text(each.value)}</dd></div>" for each in key_numbers(answered)
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>SemShare demo: what reuse saved</title>\n<style>\n{style()}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{questions(answered).capitalize()} about Python’s documentation, each answered twice</h1>\n"
        "<p>With SemShare, which reuses what earlier prompts computed, and with a full prefill of the same prompt. "
        "The model is small: judge how close the two answers are, not how good they are.</p>"
        f'\n<dl class="tiles">{tiles}</dl>\n{_legend()}\n<div class="picture">\n{sections}\n</div>\n'
        f"<h2>How to read the numbers</h2>\n{_notes(answered)}\n</main>\n</body>\n</html>\n"
    )


def style() -> str:
    """The page's style; its colours are those of the notebooks."""
    sources = "\n".join(
        f".{name} {{ fill: {colour}; }} .key.{name} {{ background: {colour}; }} "
        f".map .{name} {{ background: {colour}{_TINT}; }}"
        for name, _, colour in SOURCES
    )
    outcomes = "\n".join(f".bar.{name} {{ background: {colour}; }}" for name, colour in colours.OUTCOMES.items())
    return f"{_STYLE.read_text(encoding='utf-8')}\n{sources}\n{outcomes}\n"


def heat_map(tokens: Sequence[str], report: ReuseReport) -> str:
    """The prompt's text, coloured by source; computed tokens are underlined.

    Neighbours that share source and fate share a span.

    Raises:
        ValueError: the report is not about these tokens.
    """
    sources, computed = report.token_sources, report.token_recomputed
    if not len(tokens) == len(sources) == len(computed):
        raise ValueError(f"{len(tokens)} tokens, but the report has {len(sources)} sources and {len(computed)} fates.")
    spans = []
    for (source, fresh), run in groupby(zip(tokens, sources, computed, strict=True), key=lambda item: item[1:]):
        name = SOURCES[source][0] + (" fresh" if fresh else "")
        spans.append(f'<span class="{name}">{_text("".join(text for text, _, _ in run))}</span>')
    return f'<pre class="map" tabindex="0" role="region" aria-label="the prompt">{"".join(spans)}</pre>'


def _legend() -> str:
    items = [
        f'<li><span class="key {name}"></span><b>{name}</b> {meaning}</li>' for name, meaning, _ in reversed(SOURCES)
    ]
    items.append('<li><span class="key computed"></span><b>computed</b> afresh</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _section(each: Shown, longest: float) -> str:
    done, number = each.done, each.prompt.question
    return (
        f'<section id="question-{number}">\n<h2><span>{number}</span> {_text(done.ask.text)}</h2>\n'
        f'<p class="kind">{_text(_kind(done))}</p>\n'
        f'<div class="both">\n{_bars(done, longest)}\n{figure(each.prompt, each.before, done.report)}\n</div>\n'
        f"{_answers(done)}\n{_details(each)}\n</section>"
    )


def _kind(done: Answered) -> str:
    reason = f" ({done.report.reason})" if done.report.reason else ""
    return f"{done.ask.kind} · {done.report.outcome}{reason}"


def _bars(done: Answered, longest: float) -> str:
    """The time to the first token with SemShare and without, in one scale for the whole page; below it the KL."""
    ours, full = done.report.ttft_ms, done.full_report.ttft_ms
    return (
        '<dl class="bars">'
        f"<dt>SemShare</dt>{_bar(done.report.outcome, ours / longest, f'{seconds(ours)} <b>{done.speed_up:.1f}×</b>')}"
        f"<dt>full prefill</dt>{_bar('bypass', full / longest, seconds(full))}"
        f"<dt>KL</dt><dd>{closeness(done)} <small>{_text(promise(done))}</small></dd></dl>"
    )


def _bar(colour: str, share: float, label: str) -> str:
    return f'<dd><span class="bar {colour}" style="--share:{share:.4f}"></span><span>{label}</span></dd>'


def _answers(done: Answered) -> str:
    """Both answers side by side; what stands behind their common beginning is marked."""
    ours, full = done.answer.strip(), done.full_answer.strip()
    if ours == full:
        return (
            f'<dl class="answers"><div><dt>SemShare answers</dt><dd>{_text(ours)}</dd></div>'
            '<div><dt>full prefill answers</dt><dd class="same">the same, word for word</dd></div></dl>'
        )
    words = ours.split(" ")
    same = len(" ".join(words[: same_beginning(words, full.split(" "))]))
    return (
        f'<dl class="answers"><div><dt>SemShare answers</dt><dd>{_parted(ours, same)}</dd></div>'
        f"<div><dt>full prefill answers</dt><dd>{_parted(full, same)}</dd></div></dl>"
    )


def _parted(answer: str, same: int) -> str:
    rest = answer[same:].lstrip()
    begin = answer[: len(answer) - len(rest)]
    return f"{_text(begin)}<mark>{_text(rest)}</mark>" if rest else _text(answer)


def _details(each: Shown) -> str:
    """Every number of the call, and every token of its prompt."""
    cells = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(cell)}</dd></div>"
        for name, cell in numbers(each.done).items()
        if name != "question"  # it stands above
    )
    return (
        f'<details><summary>all numbers, and the prompt token by token</summary>\n<dl class="numbers">{cells}</dl>\n'
        f"{heat_map(each.prompt.tokens, each.done.report)}\n</details>"
    )


def _notes(answered: Sequence[Answered]) -> str:
    return "\n".join(f"<p>{_text(note)}</p>" for note in (*_HOW_TO_READ, *notes(answered)))


def _text(text: str) -> str:
    return html.escape(text)
