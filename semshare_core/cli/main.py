"""Where the command starts: errors of ours are one line and exit code 1, wrong usage is exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from semshare_core.cli.commands import Commands
from semshare_core.errors import SemShareError

app = typer.Typer(
    name="semshare",
    cls=Commands,
    help="SemShare's tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(asked: bool) -> None:
    if asked:
        print(f"semshare {metadata.version('semshare')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """SemShare's tools."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with ``arguments``, or with the process's; ends in SystemExit."""
    try:
        app(args=None if arguments is None else list(arguments))
    except SemShareError as error:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print(f"semshare: {error}", markup=False, highlight=False, style="red")
        sys.exit(1)
