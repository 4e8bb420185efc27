"""What a pool's folder holds, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from semshare_core.cli.amounts import age
from semshare_core.pool.disk.survey import quietly, survey


def contents(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Every namespace of every model with its counts, and the files that cannot be used; both JSON-able."""
    models, skipped = survey(path)
    held = []
    for model in models:
        with quietly(path, model, read_only=True) as folder:
            records = folder.records()
            skipped += folder.skipped()
            for namespace in sorted(folder.namespaces()):
                own = [record for record in records if record.namespace == namespace]
                held.append(
                    {
                        "fingerprint": model.digest,
                        "model": dict(model.description),
                        "namespace": namespace,
                        "entries": len(own),
                        "tokens": sum(len(record.tokens) for record in own),
                        "bytes": folder.n_bytes(namespace),
                        "pinned": sum(record.pinned for record in own),
                        "oldest": min((record.created for record in own), default=None),
                        "newest": max((record.created for record in own), default=None),
                    }
                )
    return held, [{"path": str(item.path), "kind": item.kind, "why": item.why} for item in skipped]


def table(held: Sequence[dict[str, Any]], now: float) -> Table:
    """The namespaces, one a line; ages are those of the newest and the oldest entry."""
    made = Table()
    for name in ("model", "namespace"):
        made.add_column(name, overflow="fold")
    for name in ("entries", "tokens", "bytes", "age", "pinned"):
        made.add_column(name, justify="right")
    for item in held:
        name = item["namespace"]
        ages = [age(now - item[end]) for end in ("newest", "oldest") if item[end] is not None]
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
