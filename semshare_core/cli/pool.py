"""``semshare pool``: look after a pool's folder. No model is loaded; all that the folder has is covered."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.filesize import decimal

from semshare_core.cli import pool_folder
from semshare_core.cli.amounts import age, read_age, read_bytes
from semshare_core.cli.contents import contents, table
from semshare_core.cli.pool_archive import Copied, export_entries, import_entries
from semshare_core.cli.pool_folder import Criteria
from semshare_core.pool.disk.skipped import kind
from semshare_core.suggestion import did_you_mean

pool = typer.Typer(help="Look after the folder of a pool (PoolConfig(path=...)).", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False, markup=False)

Folder = Annotated[Path, typer.Argument(help="The pool's folder.", show_default=False)]
Namespace = Annotated[str | None, typer.Option(help="Only of this namespace.", show_default=False)]


@pool.command("ls")
def ls(path: Folder, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What the folder holds, by model and namespace. Needs no lock."""
    listed, skipped = contents(path)
    if as_json:
        print(json.dumps({"namespaces": listed, "skipped": skipped}, indent=1))
        return
    Console().print(table(listed, time.time()))
    for item in skipped:
        console.print(f"{item['kind']}: {item['why']}")


@pool.command()
def verify(path: Folder) -> None:
    """Read every byte and say what is damaged: exit code 1 if anything is. Needs no lock."""
    with pool_folder.look(path) as folder:
        read = pool_folder.n_bytes(folder.records())
        faults = [*folder.found.skipped, *(error for error, _ in pool_folder.damage(folder))]
    for fault in faults:
        console.print(f"{kind(fault)}: {fault}")
    console.print(f"{decimal(read)} read, {len(faults)} faults.")
    raise typer.Exit(1 if faults else 0)


@pool.command()
def prune(
    path: Folder,
    older_than: Annotated[str | None, typer.Option(help="Entries made before so long, as 30d or 12h.")] = None,
    namespace: Namespace = None,
    max_bytes: Annotated[str | None, typer.Option(help="The oldest, until no more is left, as 500MB or 2GiB.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="What is damaged, and the entries that need it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete entries. Pinned ones stay, unless only --namespace is given. Needs the folder's lock."""
    if older_than is None and namespace is None and max_bytes is None and not damaged:
        raise typer.BadParameter("say what to delete: --older-than, --namespace, --max-bytes or --damaged.")
    if damaged and namespace is not None:
        raise typer.BadParameter("--damaged cannot tell whose a file was: leave --namespace out.")
    criteria = Criteria(
        namespace=namespace,
        created_before=None if older_than is None else time.time() - read_age(older_than),
        max_bytes=None if max_bytes is None else read_bytes(max_bytes),
    )
    if damaged:
        _mend(path, dry_run)
    _say_if_unknown(path, namespace)
    doomed = pool_folder.choose(path, criteria)
    if not dry_run:
        pool_folder.give_up(path, doomed)
    for item in doomed:
        console.print(f"{item.record.id} of {item.record.namespace!r}, {age(time.time() - item.record.created)} old")
    freed = decimal(sum(item.n_bytes for item in doomed))
    console.print(f"{len(doomed)} entries, {freed}: {'would go' if dry_run else 'deleted'}.")


@pool.command()
def clear(path: Folder, namespace: Namespace = None) -> None:
    """Delete all entries, pinned ones and those of earlier versions too. Needs the folder's lock."""
    pool_folder.clear(path, namespace)
    console.print("Cleared.")


@pool.command("export")
def export(
    path: Folder, archive: Annotated[Path, typer.Argument(help="The tar file to write.")], namespace: Namespace = None
) -> None:
    """Write verified entries to an uncompressed tar file. Needs no lock."""
    counts = export_entries(path, archive, namespace)
    _say_if_unknown(path, namespace)
    _say(counts, "exported")


@pool.command("import")
def import_(path: Folder, archive: Annotated[Path, typer.Argument(help="A tar file that export wrote.")]) -> None:
    """Add an export's entries, verified, to what is there. Needs the folder's lock."""
    _say(import_entries(path, archive), "imported")


def _say_if_unknown(path: Path, namespace: str | None) -> None:
    """A sentence if nothing in the folder is of ``namespace``: it may be mistyped."""
    if namespace is None:
        return
    names = {str(item["namespace"]) for item in contents(path)[0]}
    if namespace not in names:
        console.print(f"Nothing of namespace {namespace!r} is there.{did_you_mean([namespace], names)}")


def _mend(path: Path, dry_run: bool) -> None:
    """Delete what :func:`verify` finds damaged."""
    with pool_folder.look(path) as folder:
        faults = [*folder.found.skipped, *(error for error, _ in pool_folder.damage(folder))]
    for fault in faults:
        if kind(fault) == "damaged":
            console.print(str(fault))
    if not dry_run:
        pool_folder.mend(path)


def _say(counts: Copied, done: str) -> None:
    console.print(f"{counts.copied} entries {done}.")
    for count, what in (
        (counts.present, "were there already"),
        (counts.clashing, "left out: other rows are there under the same name"),
        (counts.damaged, "left out: damaged"),
    ):
        if count:
            console.print(f"{count} {what}.")
    if counts.damaged or counts.clashing:
        raise typer.Exit(1)
