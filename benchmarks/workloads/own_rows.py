"""Your own prompts: any JSONL file of corpus rows becomes cases."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from benchmarks.case import Case
from benchmarks.corpora.row import Row, read_rows
from benchmarks.workloads.ask import ask


def own_rows(path: Path) -> list[Case]:
    """The rows of a JSONL file (see :class:`benchmarks.corpora.row.Row`); a damaged line raises `ValidationError`."""
    return row_cases(read_rows(path), workload=path.stem)


def row_cases(rows: Iterable[Row], workload: str) -> list[Case]:
    """A case a row. With a question both texts are asked it; without, they are the prompts as they are."""
    return [
        Case(
            id=row.id,
            workload=workload,
            references=(_prompt(row.reference, row.question),),
            target=_prompt(row.target, row.question),
            gold=(row.gold,) if row.gold else (),
            old=(row.old,) if row.old else (),
        )
        for row in rows
    ]


def _prompt(text: str, question: str) -> str:
    return ask(text, question) if question else text
