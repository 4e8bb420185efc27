"""The reuse plan: for every target token, where its keys and values come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from semshare_core.tokens import Positions, Tokens

T = TypeVar("T")

EDIT_TOKENS = 8  # insertions and deletions up to this length count as edits within a text, not as seams


class Source(IntEnum):
    """How a target token is served; the codes appear as ``ReuseReport.token_sources``."""

    NEW = 0
    FUZZY = 1
    MOVED = 2
    PREFIX = 3


class ReferenceTokens(Protocol):
    """A pooled prompt, as matching sees it."""

    @property
    def id(self) -> str: ...

    @property
    def tokens(self) -> Tokens: ...


@dataclass(frozen=True)
class ReusePlan:
    """Per target token: source, reference and position in it. Arrays have length n = prompt tokens.

    Attributes:
        source: int8, a :class:`Source` per token.
        reference: int64, index into ``reference_ids``; -1 where the token is new.
        position: int64, position in that reference; -1 where the token is new.
        reference_ids: the references the plan draws on.
        similarity: of the best reference to the target, in [0, 1].
        stale: bool, tokens whose number, code or name differs from that of the row that serves them, and sentences that
            mention what a sentence with such a token is about; None: not known.
        account: float64, in nats, the account of the entry whose approximate row serves the token; 0 for lossless rows
            and new tokens. None: all rows that serve are lossless.
        repeated: bool, tokens of the prompt whose wording stands there several times; None: not known.
        derived: what was computed of the plan, by name; see :meth:`once`.
    """

    source: NDArray[np.int8]
    reference: Positions
    position: Positions
    reference_ids: tuple[str, ...]
    similarity: float = 0.0
    stale: NDArray[np.bool_] | None = None
    account: NDArray[np.float64] | None = None
    repeated: NDArray[np.bool_] | None = None
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def empty(cls, n: int, references: Sequence[ReferenceTokens] = (), similarity: float = 0.0) -> ReusePlan:
        """A plan that serves nothing yet."""
        return cls(
            source=np.zeros(n, np.int8),
            reference=np.full(n, -1, np.int64),
            position=np.full(n, -1, np.int64),
            reference_ids=tuple(reference.id for reference in references),
            similarity=similarity,
        )

    def __len__(self) -> int:
        return len(self.source)

    def count(self, source: Source) -> int:
        return int(np.count_nonzero(self.source == source))

    @property
    def prefix_tokens(self) -> int:
        return self.count(Source.PREFIX)

    @property
    def served(self) -> NDArray[np.bool_]:
        """True where some reference row exists for the token."""
        return self.source != Source.NEW

    @property
    def approximate(self) -> NDArray[np.bool_]:
        """True where an approximate row serves the token."""
        return np.zeros(len(self), bool) if self.account is None else self.account > 0

    @property
    def drawn_on(self) -> list[str]:
        """The ids of the references that serve some token."""
        return [name for number, name in enumerate(self.reference_ids) if (self.reference == number).any()]

    @property
    def taken(self) -> dict[str, int]:
        """How many tokens each reference serves, by its id."""
        counts = np.bincount(self.reference[self.served], minlength=len(self.reference_ids))
        return {name: int(count) for name, count in zip(self.reference_ids, counts, strict=True) if count}

    def serve(self, start: int, stop: int, source: Source, reference: int, position: int) -> None:
        """Record that target tokens ``start:stop`` come from ``reference`` at ``position`` onwards."""
        self.serve_runs([(start, stop - start, reference, position)], source)

    def serve_runs(self, runs: Sequence[tuple[int, int, int, int]], source: Source) -> None:
        """Record disjoint runs: (first target token, tokens, reference, position in it)."""
        self.derived.clear()
        start, length, reference, position = np.array(runs, np.int64).reshape(-1, 4).T
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        target = np.repeat(start, length) + within
        self.source[target] = source
        self.reference[target] = np.repeat(reference, length)
        self.position[target] = np.repeat(position, length) + within

    def seams(self) -> NDArray[np.bool_]:
        """Bool [n]: tokens at which a text begins that stood elsewhere in the reference.

        A seam is a moved token that does not continue the moved or prefix token before it: that one is of another
        reference, or its diagonal (target position - reference position) is more than ``EDIT_TOKENS`` away. A smaller
        jump is an edited word, unless tokens in between are missing. The begin of a prompt has diagonal 0.
        """
        return self.once("seams", ReusePlan._seams)

    def once(self, name: str, compute: Callable[[ReusePlan], T]) -> T:
        """``compute`` of this plan. It runs once, until :meth:`serve` changes the plan."""
        if name not in self.derived:
            self.derived[name] = compute(self)
        return cast(T, self.derived[name])

    def _seams(self) -> NDArray[np.bool_]:
        marked = np.zeros(len(self), bool)
        identical = np.flatnonzero(self.source >= Source.MOVED)
        if not identical.size:
            return marked
        reference, position = self.reference[identical], self.position[identical]
        before = np.concatenate(([-1], identical[:-1]))
        reference_before = np.concatenate((reference[:1], reference[:-1]))
        jump = np.diff(identical - position, prepend=0)
        missing = (jump != 0) & (identical - before == 1)
        begins = (reference != reference_before) | (np.abs(jump) > EDIT_TOKENS) | missing
        marked[identical[begins & (self.source[identical] == Source.MOVED)]] = True
        return marked
