"""One measured figure beside its target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from semshare_core import SemShareEngine


@dataclass(frozen=True)
class Figure:
    """``met`` is None where there is no target; ``items`` holds what the figure was made of."""

    name: str
    measured: str
    target: str = ""
    met: bool | None = None
    items: list[Any] = field(default_factory=list)


Say = Callable[[str], None]
Section = Callable[[SemShareEngine, int, Say], Iterator[Figure]]


def token_counter(engine: SemShareEngine) -> Callable[[str], int]:
    """Tokens of a text, without special ones that only stand at a prompt's begin."""
    return lambda text: len(engine.tokenizer(text)["input_ids"])
