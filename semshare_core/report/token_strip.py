"""Where a prompt's tokens came from, as a picture that needs nothing but a browser."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from semshare_core.report import colours

SOURCES = (  # by code in ReuseReport.token_sources: name, meaning, colour
    ("new", "in no earlier prompt", colours.VERMILLION),
    ("fuzzy", "a similar or displaced token", colours.ORANGE),
    ("moved", "identical text at another place", colours.SKY),
    ("prefix", "the same beginning", colours.BLUE),
)
_PER_LINE, _HEIGHT, _GAP, _MARK = 256, 10, 4, 3


def strip(sources: Sequence[int], recomputed: Sequence[int]) -> str:
    """The tokens in rows of 256 as inline SVG, neighbours of one kind as one bar; a line below: recomputed.

    That line has the text's colour, so it is visible on a dark page, too. A narrow page makes the picture narrower.
    """
    if not sources:
        return ""
    shapes = []
    tokens = list(zip(sources, recomputed, strict=True))
    for line, start in enumerate(range(0, len(tokens), _PER_LINE)):
        x, y = 0, line * (_HEIGHT + _GAP)
        for (source, computed), run in groupby(tokens[start : start + _PER_LINE]):
            width = len(list(run))
            name, _, colour = SOURCES[source]
            about = f"<title>{width} {name}{', recomputed' if computed else ''}</title>"
            shapes.append(f'<rect x="{x}" y="{y}" width="{width}" height="{_HEIGHT}" fill="{colour}">{about}</rect>')
            if computed:
                bottom = y + _HEIGHT - _MARK
                shapes.append(f'<rect x="{x}" y="{bottom}" width="{width}" height="{_MARK}" fill="currentColor"/>')
            x += width
    height = (line + 1) * (_HEIGHT + _GAP)
    wide = min(len(tokens), _PER_LINE)
    counts = ", ".join(f"{sources.count(code)} {name}" for code, (name, _, _) in enumerate(SOURCES))
    legend = " ".join(f'<span style="color:{colour}">&#9632;</span> {name}' for name, _, colour in SOURCES)
    return (
        f'<svg role="img" aria-label="tokens by source: {counts}" viewBox="0 0 {wide} {height}" width="{3 * wide}" '
        f'height="{height}" style="max-width:100%" preserveAspectRatio="none">{"".join(shapes)}</svg>'
        f"<div>{legend} &#9601; recomputed; {_PER_LINE} tokens a line</div>"
    )
