"""Files that are passed over, told once for each kind."""

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
_REMEDIES: dict[Kind, str] = {
    "damaged": "`semshare pool prune --damaged` deletes them",
    "newer": "a later version of SemShare wrote them",
    "foreign": "they belong to another model, tokenizer or dtype",
    "unreadable": "the system does not let us read them",
}


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be used, of which kind it is, and why."""

    path: Path
    kind: Kind
    why: str

    @classmethod
    def of(cls, path: Path, error: PoolFileError) -> Skipped:
        return cls(path, _KINDS.get(type(error), "unreadable"), str(error))


def warn_of(skipped: Iterable[Skipped]) -> None:
    """One :class:`PoolWarning` for each kind, with the first of its files."""
    by_kind: dict[Kind, list[Skipped]] = {}
    for item in skipped:
        by_kind.setdefault(item.kind, []).append(item)
    for kind, items in by_kind.items():
        warnings.warn(
            f"{len(items)} {kind} file(s) of the pool are passed over and left where they are; {_REMEDIES[kind]}. "
            f"The first: {items[0].why}",
            PoolWarning,
            stacklevel=3,
        )
