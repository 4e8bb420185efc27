"""What a pool's folder holds, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from semshare_core.cli.amounts import age
from semshare_core.cli.pool_folder import look, n_bytes
from semshare_core.pool.disk.skipped import kind


def contents(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every namespace of every model with its counts, and what cannot be used; both JSON-able."""
    with look(path) as folder:
        records, models = folder.records(), folder.found.models
    listed = []
    for model, namespace in sorted({(record.model, record.namespace) for record in records}):
        own = [record for record in records if (record.model, record.namespace) == (model, namespace)]
        listed.append(
            {
                "fingerprint": model,
                "model": dict(models[model].description) if model in models else {},
                "namespace": namespace,
                "entries": len(own),
                "tokens": sum(len(record.tokens) for record in own),
                "bytes": n_bytes(own),
                "pinned": sum(record.pinned for record in own),
                "oldest": own[0].created,
                "newest": own[-1].created,
            }
        )
    return listed, [{"kind": kind(error), "why": str(error)} for error in folder.found.skipped]


def table(listed: Sequence[dict[str, Any]], now: float) -> Table:
    """The namespaces, one a line; ages are those of the newest and the oldest entry."""
    made = Table()
    for name in ("model", "namespace"):
        made.add_column(name, overflow="fold")
    for name in ("entries", "tokens", "bytes", "age", "pinned"):
        made.add_column(name, justify="right")
    for item in listed:
        name = item["namespace"]
        ages = [age(now - item[end]) for end in ("newest", "oldest")]
        made.add_row(
            Text(f"{item['model'].get('architecture', '?')} {item['fingerprint'][:8]}"),
            Text(name if name.isprintable() and name else repr(name)),
            f"{item['entries']:,}",
            f"{item['tokens']:,}",
            decimal(item["bytes"]),
            " to ".join(dict.fromkeys(ages)),
            str(item["pinned"]),
        )
    return made
