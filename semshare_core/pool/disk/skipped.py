"""What is passed over in a pool's folder, said once for each kind."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semshare_core.errors import DamagedFileError, ForeignFileError, NewerFileError, PoolFileError, PoolWarning

Kind = Literal["damaged", "newer", "foreign", "unreadable"]
_KINDS: dict[type[PoolFileError], Kind] = {
    DamagedFileError: "damaged",
    NewerFileError: "newer",
    ForeignFileError: "foreign",
}
_CONSEQUENCES: dict[Kind, str] = {
    "damaged": "cannot be used; whoever opens the folder for writing deletes them, and goes on without",
    "newer": "were written by a later version of SemShare, and stay where they are",
    "foreign": "belong to another model, tokenizer or dtype, and stay as long as disk_bytes has room for them",
    "unreadable": "the system does not let us read",
}


@dataclass(frozen=True)
class Skipped:
    """What cannot be used: the file that has it, of which kind it is, and why."""

    path: Path
    kind: Kind
    why: str

    @classmethod
    def of(cls, path: Path, error: PoolFileError) -> Skipped:
        return cls(path, _KINDS.get(type(error), "unreadable"), str(error))


def warn_of(skipped: Iterable[Skipped]) -> None:
    """One :class:`PoolWarning` for each kind, with the first of them."""
    by_kind: dict[Kind, list[Skipped]] = {}
    for item in skipped:
        by_kind.setdefault(item.kind, []).append(item)
    for kind, items in by_kind.items():
        told = f"{len(items)} {kind} part(s) of the pool {_CONSEQUENCES[kind]}. The first: {items[0].why}"
        warnings.warn(told, PoolWarning, stacklevel=3)
