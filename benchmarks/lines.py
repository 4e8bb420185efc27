"""How long the code is: the trunk (its files are listed in `docs/structures.md`), the core, and all of it.

python -m benchmarks.lines
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
CORE = ROOT / "semshare_core"
LONGEST_FUNCTION = 60
BESIDE = ("calibrate", "cli", "baselines")
"""Rooms of the core that are not counted with it: none of them is needed to answer a request."""

_LISTED = re.compile(r"^\s*[-*\d.]+ `([\w/]+\.py)`", re.MULTILINE)
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


@dataclass(frozen=True)
class Function:
    """A function or method, and the lines from its `def` to its end."""

    path: Path
    name: str
    lines: int


def trunk_files(page: Path = ROOT / "docs" / "structures.md") -> list[Path]:
    """The files that one request runs through, in reading order, as the page lists them between its two marks."""
    _, _, behind = page.read_text().partition("<!-- trunk -->")
    listed, end, _ = behind.partition("<!-- end of trunk -->")
    return [CORE / name for name in _LISTED.findall(listed if end else "")]


def core_files() -> list[Path]:
    """All of the core but what stands beside it."""
    return [path for path in sorted(CORE.rglob("*.py")) if path.relative_to(CORE).parts[0] not in BESIDE]


def code_lines(source: str) -> int:
    """Lines of `source` that are neither blank nor comment nor docstring alone."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def functions(paths: Sequence[Path]) -> Iterator[Function]:
    """Every function in `paths`, those inside of others too."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield Function(path, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)


def main() -> None:
    """Print the lines, and the longest functions of the trunk."""
    trunk = trunk_files()
    table = Table("", "files", "lines", "of code")
    for name, paths in (
        ("trunk", trunk),
        (f"core without {', '.join(BESIDE)}", core_files()),
        ("core", sorted(CORE.rglob("*.py"))),
        ("core and integrations", [*CORE.rglob("*.py"), *(ROOT / "semshare_integrations").rglob("*.py")]),
    ):
        sources = [path.read_text() for path in paths]
        lines = sum(source.count("\n") for source in sources)
        table.add_row(name, str(len(sources)), f"{lines:,}", f"{sum(map(code_lines, sources)):,}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    longest = max(functions(trunk), key=lambda function: function.lines)
    console.print(f"Longest function of the trunk: {_described(longest)}.")
    for function in functions(trunk):
        if function.lines > LONGEST_FUNCTION:
            console.print(f"Longer than {LONGEST_FUNCTION} lines: {_described(function)}.")


def _described(function: Function) -> str:
    return f"{function.name} in {function.path.relative_to(ROOT)}, {function.lines} lines"


if __name__ == "__main__":
    main()
