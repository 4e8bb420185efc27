"""The commands of ``semshare``: its own, and those of installed packages. Each is imported when it is called.

A package adds a command by an entry point of the group ``semshare.commands``. ``--help`` shows its name and, beside it,
the summary of the package that it comes from, so that nothing has to be imported to list it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from semshare_core.errors import ConfigError, MissingDependencyError, SemShareError

GROUP = "semshare.commands"

_OWN = {
    "pool": ("semshare_core.cli.pool:pool", "Look after the folder of a pool (PoolConfig(path=...))."),
    "calibrate": (
        "semshare_core.cli.calibrate:calibrate",
        "Measure how far reused answers lie from the full prefill's.",
    ),
    "why": ("semshare_core.cli.why:why", "Say why a prompt is served as it is, and where it first differs."),
}

_OWN_PACKAGE = "semshare"
_OF_EXTRAS = {
    "audit": "Say what would have been saved on requests that were logged (extra 'serve').",
    "serve": "Answer over HTTP, as OpenAI's clients expect it (extra 'serve').",
}
"""Summaries of the commands that come with this package by entry points, as those of other packages do."""


class Commands(TyperGroup):
    """Own commands first. A package cannot replace one of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (place, summary) in _OWN.items():
            self.add_command(LazyCommand(name, [EntryPoint(name, place, GROUP)], summary))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add_packages()
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_packages()
        return super().list_commands(ctx)

    def _add_packages(self) -> None:
        added: dict[str, list[EntryPoint]] = defaultdict(list)
        for entry in entry_points(group=GROUP):
            added[entry.name].append(entry)
        for name in sorted(added.keys() - self.commands.keys()):
            self.add_command(LazyCommand(name, added[name], escape(_summary(added[name][0]))))


class LazyCommand(TyperCommand):
    """A command of which name and summary are known; what it does is imported when it is called."""

    def __init__(self, name: str, entries: Sequence[EntryPoint], summary: str) -> None:
        super().__init__(name, help=summary)
        self.entries = entries

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Of the command itself, which runs in this one's place."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """The command itself.

        Raises:
            MissingDependencyError: it cannot be imported. ConfigError: it is no command, or two packages bring it.
        """
        if len(self.entries) > 1:
            packages = " and ".join(_package(entry) for entry in self.entries)
            raise ConfigError(f"{packages} both add a command {self.name!r}. Uninstall one of them.")
        [entry] = self.entries
        try:
            made = entry.load()
        except SemShareError:
            raise
        except Exception as error:  # the package's own code, which may fail in any way
            raise MissingDependencyError(
                f"the command {self.name!r} of {_package(entry)} cannot be imported ({type(error).__name__}: {error}). "
                "Update that package, or uninstall it."
            ) from error
        app = typer.Typer(add_completion=False)
        if isinstance(made, typer.Typer):
            app.add_typer(made, name=self.name)
            return typer.main.get_group(app).commands[self.name or ""]
        if not callable(made):
            raise ConfigError(
                f"the command {self.name!r} of {_package(entry)} is neither a function nor a typer.Typer, "
                f"but a {type(made).__name__} ({entry.value}). Update that package, or uninstall it."
            )
        app.command(self.name)(made)
        return typer.main.get_command(app)


def _package(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name} {entry.dist.version}" if entry.dist else "semshare"


def _summary(entry: EntryPoint) -> str:
    if entry.dist is None or "Summary" not in entry.dist.metadata:
        return f"Of {_package(entry)}."
    if entry.dist.name == _OWN_PACKAGE and entry.name in _OF_EXTRAS:
        return _OF_EXTRAS[entry.name]
    return f"{entry.dist.metadata['Summary']} ({_package(entry)})"
