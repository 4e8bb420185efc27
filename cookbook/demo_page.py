"""The demo's page: every prompt as a heat map of where its tokens came from. One file, no scripts, no downloads."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from semshare_core import ReuseReport
from semshare_core.report.token_strip import SOURCES


@dataclass(frozen=True)
class PageCall:
    """One call: its question, the text of each prompt token, what happened, both answers, its row of the table."""

    kind: str
    question: str
    tokens: Sequence[str]
    report: ReuseReport
    answer: str
    full_answer: str
    cells: Sequence[str]


def render(calls: Sequence[PageCall], headings: Sequence[str], note: str) -> str:
    """The whole page."""
    rows = "\n".join(_table_row(number, call) for number, call in enumerate(calls, start=1))
    sections = "\n".join(_section(number, call, headings) for number, call in enumerate(calls, start=1))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>SemShare demo: where every prompt token came from</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>Where every prompt token came from</h1>\n<p>{html.escape(note)}</p>\n{_legend()}\n"
        f'<div class="wide"><table><thead>{_heading_row(headings)}</thead>\n<tbody>\n{rows}\n</tbody></table></div>\n'
        f"{sections}\n</main>\n</body>\n</html>\n"
    )


def heat_map(tokens: Sequence[str], report: ReuseReport) -> str:
    """The prompt's text, coloured by source; recomputed tokens are underlined.

    Neighbours that share source and fate share a span.

    Raises:
        ValueError: the report is not about these tokens.
    """
    sources, fresh = report.token_sources, report.token_recomputed
    if not len(tokens) == len(sources) == len(fresh):
        raise ValueError(f"{len(tokens)} tokens, but the report tells of {len(sources)} sources, {len(fresh)} fates.")
    spans = []
    for (source, computed), run in groupby(zip(tokens, sources, fresh, strict=True), key=lambda item: item[1:]):
        name = SOURCES[source][0] + (" fresh" if computed else "")
        spans.append(f'<span class="{name}">{html.escape("".join(text for text, _, _ in run))}</span>')
    return f'<pre class="map">{"".join(spans)}</pre>'


def _legend() -> str:
    items = [f'<li><span class="{name}">{name}</span> {meaning}</li>' for name, meaning, _ in SOURCES]
    items.append('<li><span class="fresh">underlined</span> recomputed, whatever its source</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _heading_row(headings: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<th>{html.escape(heading)}</th>' for heading in headings)}</tr>"


def _table_row(number: int, call: PageCall) -> str:
    first, *others = call.cells
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in others)
    return f'<tr><td><a href="#call-{number}">{html.escape(first)}</a></td>{cells}</tr>'


def _section(number: int, call: PageCall, headings: Sequence[str]) -> str:
    report = call.report
    reason = f" ({html.escape(report.reason)})" if report.reason else ""
    answers = f"<p><b>Answer:</b> {html.escape(call.answer)}</p>"
    if call.answer != call.full_answer:
        answers += f"\n<p><b>After a full prefill:</b> {html.escape(call.full_answer)}</p>"
    table = f"<table><thead>{_heading_row(headings)}</thead><tbody>{_table_row(number, call)}</tbody></table>"
    prompt = f"The prompt: {report.prompt_tokens:,} tokens, {report.recomputed_tokens:,} of them computed"
    return (
        f'<section id="call-{number}">\n<h2>{number}. {html.escape(call.question)}</h2>\n'
        f"<p>{html.escape(call.kind)} · {report.outcome}{reason}</p>\n{_bar(report)}\n"
        f'<div class="wide">{table}</div>\n{answers}\n'
        f"<details><summary>{prompt}</summary>\n{heat_map(call.tokens, report)}</details>\n</section>"
    )


def _bar(report: ReuseReport) -> str:
    """The prompt from its first to its last token as one strip, a piece per run of tokens of one source."""
    position, pieces = 0, []
    for source, run in groupby(report.token_sources):
        length = sum(1 for _ in run)
        name = SOURCES[source][0]
        pieces.append(f'<rect class="{name}" x="{position}" width="{length}" height="12"/>')
        position += length
    position = 0
    for computed, run in groupby(report.token_recomputed):
        length = sum(1 for _ in run)
        if computed:
            pieces.append(f'<rect class="mark" x="{position}" y="12" width="{length}" height="4"/>')
        position += length
    label = ", ".join(f"{getattr(report, name + '_tokens')} {name}" for name, *_ in reversed(SOURCES))
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {max(position, 1)} 16" preserveAspectRatio="none">'
        f"{''.join(pieces)}</svg>"
    )


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1e; --soft: #6b6b70; --line: #d9d9de;
  --new: #f6c9c4; --fuzzy: #f8dfa6; --exact: #c3e6c5; --prefix: #c5dbf7; --mark: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181b; --ink: #e8e8ea; --soft: #9d9da5; --line: #3a3b41;
  --new: #6b302c; --fuzzy: #5e4a15; --exact: #24502a; --prefix: #22446e; --mark: #ff8f85; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { line-height: 1.2; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
h2 + p { margin: 0 0 .75rem; color: var(--soft); }
a { color: inherit; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: bottom; }
th { font-weight: 600; color: var(--soft); }
th:nth-child(2), td:nth-child(2), th:nth-child(3), td:nth-child(3) { text-align: left; }
td:not(:nth-child(2)) { white-space: nowrap; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: 0; font-size: .875rem; }
.legend span { padding: .1rem .4rem; border-radius: .2rem; }
.new { background: var(--new); fill: var(--new); } .fuzzy { background: var(--fuzzy); fill: var(--fuzzy); }
.exact { background: var(--exact); fill: var(--exact); } .prefix { background: var(--prefix); fill: var(--prefix); }
.fresh { text-decoration: underline 2px var(--mark); text-underline-offset: 3px; text-decoration-skip-ink: none; }
.mark { fill: var(--mark); }
svg { display: block; width: 100%; height: 20px; margin: .5rem 0; }
.map { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.7 ui-monospace, monospace;
  border: 1px solid var(--line); border-radius: .4rem; padding: 1rem; }
summary { cursor: pointer; color: var(--soft); }
"""
