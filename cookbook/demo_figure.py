"""A prompt as a picture: where its passages stood before, where they stand now, what served them, what was computed."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cookbook.demo_passages import Passage, Prompt, main_source
from semshare_core import ReuseReport
from semshare_core.report.token_strip import SOURCES

# The picture is 1000 wide, however wide the page is; its heights are pixels.
_WIDTH, _GAP = 1000.0, 24.0
_BEFORE, _RIBBONS, _NOW, _LANE, _COMPUTED = 8, 60, 16, 3, 5


@dataclass(frozen=True)
class _Row:
    """A prompt drawn from ``left`` on, ``unit`` wide a token."""

    prompt: Prompt
    left: float
    unit: float

    @property
    def width(self) -> float:
        return self.unit * len(self.prompt.tokens)

    def x(self, token: int) -> str:
        return _number(self.left + self.unit * token)

    def w(self, tokens: int) -> str:
        return _number(self.unit * tokens)


def figure(prompt: Prompt, before: Sequence[Prompt], report: ReuseReport) -> str:
    """The passages' way from the earlier prompts ``before`` (none: nothing moved) to their place in ``prompt``."""
    now = _Row(prompt, 0.0, _WIDTH / max(len(prompt.tokens), 1))
    earlier = _rows(before)
    top = _BEFORE + _RIBBONS if earlier else 0
    lane = top + _NOW + _LANE
    drawn = [*_earlier(earlier), *_ribbons(earlier, now, report), *_sources(now, report, top)]
    drawn += _runs(now, report.token_recomputed, lambda computed: "computed" if computed else "", lane, _COMPUTED)
    height = lane + _COMPUTED
    picture = (
        f'<svg role="img" aria-label="{html.escape(_in_words(prompt, before, report))}" viewBox="0 0 1000 {height}" '
        f'height="{height}" preserveAspectRatio="none">{"".join(drawn)}</svg>'
    )
    labels = "".join(
        f'<span style="{_at(row.left, row.width)}">prompt of question {row.prompt.question}</span>' for row in earlier
    )
    above = f'<div class="labels">{labels}</div>{_letters(earlier)}' if earlier else ""
    return f'<figure class="flow">{above}{picture}{_letters([now])}<figcaption>{_counts(report)}</figcaption></figure>'


def _rows(prompts: Sequence[Prompt]) -> list[_Row]:
    """The earlier prompts side by side, in one scale."""
    room = _WIDTH - _GAP * (len(prompts) - 1)
    unit = room / max(sum(len(prompt.tokens) for prompt in prompts), 1)
    rows: list[_Row] = []
    left = 0.0
    for prompt in prompts:
        rows.append(_Row(prompt, left, unit))
        left += rows[-1].width + _GAP
    return rows


def _earlier(rows: Iterable[_Row]) -> Iterable[str]:
    for row in rows:
        yield _rect("before", row.x(0), 0, row.w(len(row.prompt.tokens)), _BEFORE)
        yield from _edges(row, 0, _BEFORE)


def _ribbons(earlier: Iterable[_Row], now: _Row, report: ReuseReport) -> Iterable[str]:
    """Each reused passage's way, from the first of the earlier prompts that has it, in the colour of its source."""
    rows = list(earlier)
    for passage in now.prompt.passages:
        source = main_source(passage, report)
        found = ((row, old) for row in rows if (old := row.prompt.passage(passage.name)))
        if source != "new" and (first := next(found, None)):
            yield _ribbon(first[0], first[1], now, passage, source)


def _ribbon(row: _Row, old: Passage, now: _Row, passage: Passage, source: str) -> str:
    top, bottom, bend = _BEFORE, _BEFORE + _RIBBONS, _RIBBONS // 3
    x0, x1, y0, y1 = row.x(old.start), row.x(old.stop), now.x(passage.start), now.x(passage.stop)
    return (
        f'<path class="ribbon {source}" d="M{x0} {top}C{x0} {top + bend} {y0} {bottom - bend} {y0} {bottom}'
        f'H{y1}C{y1} {bottom - bend} {x1} {top + bend} {x1} {top}Z">'
        f"<title>passage {passage.name}: {source}</title></path>"
    )


def _sources(now: _Row, report: ReuseReport, top: int) -> Iterable[str]:
    yield from _runs(now, report.token_sources, lambda source: SOURCES[source][0], top, _NOW)
    yield from _edges(now, top, _NOW)


def _runs(row: _Row, codes: Sequence[int], name: Callable[[int], str], top: int, height: int) -> Iterable[str]:
    """A rectangle for every run of one code that has a name."""
    position = 0
    for code, run in groupby(codes):
        length = sum(1 for _ in run)
        if name(code):
            yield _rect(name(code), row.x(position), top, row.w(length), height)
        position += length


def _edges(row: _Row, top: int, height: int) -> Iterable[str]:
    """A line in the paper's colour where a passage begins and ends."""
    for token in sorted({edge for passage in row.prompt.passages for edge in (passage.start, passage.stop)}):
        yield f'<path class="edge" d="M{row.x(token)} {top}v{height}"/>'


def _rect(name: str, x: str, y: int, width: str, height: int) -> str:
    return f'<rect class="{name}" x="{x}" y="{y}" width="{width}" height="{height}"/>'


def _letters(rows: Iterable[_Row]) -> str:
    spans = [
        f'<span style="{_at(row.left + row.unit * each.start, row.unit * (each.stop - each.start))}">{each.name}</span>'
        for row in rows
        for each in row.prompt.passages
    ]
    return f'<div class="letters" aria-hidden="true">{"".join(spans)}</div>'


def _at(left: float, width: float) -> str:
    return f"left:{_number(left / 10)}%;width:{_number(width / 10)}%"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _counts(report: ReuseReport) -> str:
    """Tokens by source, and how many were computed."""
    counts = [(name, report.token_sources.count(code)) for code, (name, *_) in enumerate(SOURCES)]
    parts = [f'<span class="key {name}"></span>{count:,} {name}' for name, count in reversed(counts) if count]
    computed = f"{report.recomputed_tokens:,} of {report.prompt_tokens:,} computed"
    return f'{" + ".join(parts)} tokens; <span class="key computed"></span>{computed}'


def _in_words(prompt: Prompt, before: Sequence[Prompt], report: ReuseReport) -> str:
    """The picture for those who cannot see it."""
    order = " ".join(passage.name for passage in prompt.passages)
    words = [f"passages {order}" if order else "no passages"]
    words += [f"before, in question {other.question}: {' '.join(p.name for p in other.passages)}" for other in before]
    counts = [f"{report.token_sources.count(code)} {name}" for code, (name, *_) in reversed([*enumerate(SOURCES)])]
    words.append(f"tokens by source: {', '.join(counts)}; {report.recomputed_tokens} computed")
    return "; ".join(words)
