"""out/bench.json and its like: whole after every item, so that a run that is broken off leaves what it measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from benchmarks.bench.item import Item


class Written(Protocol):
    """An item that becomes a JSON object."""

    def to_json(self) -> dict[str, Any]: ...


ItemT = TypeVar("ItemT", bound=Written)


@dataclass
class Record(Generic[ItemT]):
    """What is written, and where.

    Attributes:
        about: the machine, versions and settings.
        parts: what was planned and what was done of it.
        notes: what could not be measured, and why.
    """

    path: Path
    about: Mapping[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    items: list[ItemT] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)

    def add(self, item: ItemT) -> None:
        """Keep an item, and write."""
        self.items.append(item)
        self._lines.append(json.dumps(item.to_json(), ensure_ascii=False))
        self.write()

    def write(self) -> None:
        """Through a neighbour, so that a reader never sees half of it; items are not serialised anew each time."""
        head = {**self.about, "parts": self.parts, "notes": self.notes}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2])  # less what closes the object
            file.write(',\n "items": [\n  ')
            file.write(",\n  ".join(self._lines))
            file.write("\n ]\n}\n")
        os.replace(part, self.path)


def read_record(path: Path) -> Record[Item]:
    """What :meth:`Record.write` wrote of `benchmarks.bench`. Raises what :func:`read_items` does."""
    return read_items(path, lambda told: Item(**told))


def read_items(path: Path, make: Callable[[Mapping[str, Any]], ItemT]) -> Record[ItemT]:
    """What :meth:`Record.write` wrote. Other files raise `ValueError`, `KeyError` or `TypeError`."""
    told = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(told, dict):
        raise TypeError("it holds no object")
    about = {key: value for key, value in told.items() if key not in ("parts", "notes", "items")}
    return Record(path, about, told["parts"], told["notes"], [make(item) for item in told["items"]])
