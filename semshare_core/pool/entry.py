"""A pooled reference prompt: its tokens, and the segments that hold its keys and values."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from semshare_core.pool.segment import MemoryRows, Pair, Rows, Segment
from semshare_core.tokens import Tokens, common_prefix


@dataclass(eq=False)
class Entry:
    """One reference.

    Attributes:
        namespace: whose it is; nobody else ever sees it.
        tokens: int64 [n], prompt and generated tokens.
        segments: rows of all tokens, in text order. Replaced as a whole.
        approximate: bool [n], False where the row is what a full prefill computes. A row behind an approximate one has
            read it, so all rows behind the first approximate one are approximate.
        embedding: float32 [m, dim], unit rows, one for each part of the text that was embedded; without rows: the entry
            is not found by its likeness.
        account: in nats, an upper quantile of how far answers from the approximate rows are believed to lie from
            the full prefill's (``semshare_core.budget.account``). 0 if and only if no row is approximate; infinite: not
            known.
        pinned: never evicted.
        created: seconds of Unix time.
        expires: when it is no longer used, likewise; None: never.
        steady: leading rows that have the bits of any longer prompt's own pass; None: all that are lossless
            (``semshare_core.model.attention.bit_blocks``).
        weights: names the weights that computed the rows (``semshare_core.model.weights``); it serves under no others.
    """

    namespace: str
    tokens: Tokens
    segments: tuple[Segment, ...]
    approximate: NDArray[np.bool_]
    embedding: NDArray[np.float32]
    account: float = 0.0
    pinned: bool = False
    created: float = field(default_factory=time.time)
    expires: float | None = None
    weights: str = ""
    steady: int | None = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = entry_id(self.namespace, self.tokens, self.weights)
        self.embedding = np.atleast_2d(self.embedding)
        assert (self.account > 0) == bool(self.approximate.any()), "an account is that of approximate rows"

    @classmethod
    def of_rows(
        cls,
        namespace: str,
        tokens: Tokens,
        rows: Sequence[Pair],
        approximate: NDArray[np.bool_],
        embedding: NDArray[np.float32],
        *,
        account: float = 0.0,
        pinned: bool = False,
        weights: str = "",
        steady: int | None = None,
    ) -> Entry:
        """An entry that is not in a pool yet, from per-layer keys and values [1, kv_heads, n, head_dim]."""
        in_memory = MemoryRows(rows)
        segment = Segment(namespace, 0, len(tokens), in_memory, in_memory.n_bytes)
        return cls(
            namespace, tokens, (segment,), approximate, embedding, account, pinned, weights=weights, steady=steady
        )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values, those shared with other entries included."""
        return sum(segment.n_bytes for segment in self.segments)

    @property
    def lossless(self) -> Tokens:
        """The leading tokens whose rows are those of a full prefill."""
        return self.tokens[: self.usable(0.0)]

    @property
    def approximates(self) -> bool:
        """Whether some of its rows are approximate."""
        return len(self.lossless) < len(self)

    def become_lossless(self, segments: tuple[Segment, ...], steady: int | None) -> None:
        """Let other rows stand in the place of the approximate ones. Needs the pool's lock.

        Readers without a lock take marks first and rows then (:class:`View`), so the rows are replaced first: no reader
        takes approximate rows for lossless ones.
        """
        self.segments = segments
        self.approximate, self.account, self.steady = np.zeros_like(self.approximate), 0.0, steady

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def usable_prefix(self, tokens: Tokens, most: float) -> int:
        """Length of the common prefix with ``tokens`` whose rows are :meth:`usable`; steady ones if ``most`` is 0."""
        limit = len(self) if most or self.steady is None else self.steady
        return min(common_prefix(self.tokens, tokens), self.usable(most), limit)

    @property
    def beginnings(self) -> list[tuple[int, float]]:
        """How many leading rows serve, and the smallest ``most`` at which :meth:`usable_prefix` takes them."""
        n, lossless = len(self), self.usable(0.0)
        steady = lossless if self.steady is None else min(self.steady, lossless)
        found = [(steady, 0.0), (lossless, sys.float_info.min), (n, self.account)]
        return [found[0], *(longer for shorter, longer in pairwise(found) if longer[0] > shorter[0])]

    def usable(self, most: float) -> int:
        """Leading rows that may serve: all if the account is at most ``most`` nats, or else the lossless ones."""
        approximate = self.approximate  # before the account: the other way round a healed entry might have no row
        return len(self) if self.account <= most else int(approximate.argmax())


def entry_id(namespace: str, tokens: Tokens, weights: str = "") -> str:
    """Names a text's rows within a namespace: the same text has another id in another one, and under other weights."""
    key = hashlib.blake2b(namespace.encode(), digest_size=32, key=weights.encode()).digest()
    return hashlib.blake2b(tokens.tobytes(), digest_size=12, key=key).hexdigest()


@dataclass(frozen=True)
class RowSpan:
    """Rows of an entry's tokens from ``start`` on, wherever they lay when the view was made."""

    start: int
    length: int
    rows: Rows


class View:
    """The leading rows of an entry that a policy allows: what matching and rearranging get to see.

    It holds the rows themselves, so that they can be read however the pool moves or drops them meanwhile; until it is
    released, for what the pool drops is to leave memory.

    Attributes:
        stored: some rows lie on disk.
    """

    def __init__(self, entry: Entry, length: int) -> None:
        self.id = entry.id
        self.namespace = entry.namespace
        self.tokens: Tokens = entry.tokens[:length]
        self.approximate = entry.approximate
        self.account = entry.account
        self.steady = entry.steady
        self.spans = [RowSpan(segment.start, segment.length, segment.rows) for segment in entry.segments]
        self.stored = not all(span.rows.in_memory for span in self.spans)

    def release(self) -> None:
        """Let go of the rows: whoever reads some of them has those in his hands."""
        self.spans = []
