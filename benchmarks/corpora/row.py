"""The row that every corpus is built into, and its JSONL file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """A reference text, a target text that resembles it, and what to ask about the target.

    `gold` is the answer by the target, `old` the answer by the reference: giving `old` where it differs proves that the
    reference leaked. All three of `question`, `gold` and `old` are empty where there is nothing to look up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    reference: str
    target: str
    question: str = ""
    gold: str = ""
    old: str = ""


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file; a damaged line raises pydantic's `ValidationError`."""
    # Not splitlines(): it would also split at the Unicode line separators that JSON leaves unescaped in a text.
    return [Row.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write JSONL through a neighbour file, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".rows-") as work:
        part = Path(work) / path.name
        part.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8", newline="\n")
        os.replace(part, path)
