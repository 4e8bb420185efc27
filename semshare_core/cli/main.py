"""Where the command starts: errors of ours are one line and exit code 1, wrong usage is exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from semshare_core.cli.calibrate import calibrate
from semshare_core.cli.pool import pool
from semshare_core.errors import SemShareError

app = typer.Typer(
    name="semshare",
    help="SemShare's tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(pool, name="pool")
app.command()(calibrate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with ``arguments``, or with the process's; ends in SystemExit."""
    try:
        app(args=None if arguments is None else list(arguments))
    except SemShareError as error:
        Console(stderr=True, soft_wrap=True).print(f"semshare: {error}", markup=False, highlight=False, style="red")
        sys.exit(1)
