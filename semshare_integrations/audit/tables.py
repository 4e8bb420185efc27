"""What an audit found, as a table for the console and as a page to show."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from rich.table import Table

from semshare_core.report import colours
from semshare_integrations.audit.replay import Kind

COLUMNS = (
    "edit",
    "requests",
    "prompt tokens",
    "prefix cache saves",
    "SemShare saves",
    "faster",
    "KL mean",
    "KL worst",
    "compared",
)


def cells(kind: Kind) -> tuple[str, ...]:
    """The line of a kind of edit."""
    mean, worst, faster = kind.mean_kl, kind.worst_kl, kind.speedup
    return (
        kind.name,
        str(len(kind.requests)),
        f"{kind.prompt_tokens:,}",
        f"{kind.prefix:.0%}",
        f"{1 - kind.computed:.0%}",
        "" if faster is None else f"{faster:.1f}×",
        "" if mean is None else f"{mean:.4f}",
        "" if worst is None else f"{worst:.4f}",
        str(len(kind.sample)),
    )


def total(kinds: Sequence[Kind]) -> Kind:
    """All kinds together."""
    return Kind("all", [each for kind in kinds for each in kind.requests])


def console_table(kinds: Sequence[Kind]) -> Table:
    """For the console."""
    table = Table(*COLUMNS)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind in kinds:
        table.add_row(*cells(kind))
    table.add_section()
    table.add_row(*cells(total(kinds)))
    return table


def as_json(kinds: Sequence[Kind]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "edit": kind.name,
            "requests": len(kind.requests),
            "prompt_tokens": kind.prompt_tokens,
            "prefix_share": kind.prefix,
            "computed_share": kind.computed,
            "speedup": kind.speedup,
            "mean_kl": kind.mean_kl,
            "worst_kl": kind.worst_kl,
            "compared": len(kind.sample),
        }
        for kind in [*kinds, total(kinds)]
    ]


def page(kinds: Sequence[Kind], model: str, level: str, left_out: int) -> str:
    """A page of HTML that needs nothing else. It quotes no prompt. ``left_out``: prompts that could not be run."""
    filled = {
        "model": html.escape(model),
        "level": html.escape(level),
        "left_out": f"{left_out:,}",
        "prefix": colours.BLUE,
        "besides": colours.SKY,
        "head": "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS),
        "rows": "".join(_row(kind) for kind in [*kinds, total(kinds)]),
    }
    text = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], text)


def _row(kind: Kind) -> str:
    line = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells(kind))
    prefix = min(kind.prefix, 1 - kind.computed)
    besides = max(0.0, 1 - kind.computed - prefix)
    bars = "".join(
        f'<div style="width:{100 * share:.1f}%;background:{colour}"></div>'
        for share, colour in ((prefix, colours.BLUE), (besides, colours.SKY))
    )
    return f'<tr>{line}</tr><tr class="bars"><td colspan="{len(COLUMNS)}"><div class="bar">{bars}</div></td></tr>'
