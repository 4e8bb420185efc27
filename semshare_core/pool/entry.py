"""A pooled reference prompt: its tokens and its keys and values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.match.plan import Tokens
from semshare_core.match.prefix import common_prefix
from semshare_core.match.runs import kgram_hashes


@dataclass(frozen=True, eq=False)
class Entry:
    """One reference.

    Attributes:
        namespace: whose it is; nobody else ever sees it.
        tokens: int64 [n], prompt and generated tokens.
        rows: per layer keys and values [1, kv_heads, n, head_dim].
        depth: uint8 [n], approximate reuses behind each row; 0: what a full prefill computes.
        embedding: float32 [dim], unit length.
    """

    namespace: str
    tokens: Tokens
    rows: list[tuple[Tensor, Tensor]]
    depth: NDArray[np.uint8]
    embedding: NDArray[np.float32]
    id: str = field(init=False)
    _kgrams: dict[int, NDArray[np.uint64]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        digest = hashlib.blake2b(self.tokens.tobytes(), digest_size=12, key=self.namespace.encode()[:64])
        object.__setattr__(self, "id", digest.hexdigest())

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        """Bytes of keys and values, with the slack of the buffers they are views of."""
        return sum(tensor.untyped_storage().nbytes() for pair in self.rows for tensor in pair)

    @property
    def lossless(self) -> Tokens:
        """The leading tokens whose rows are those of a full prefill."""
        return self.tokens[: self.usable(0)]

    def kgrams(self, k: int) -> NDArray[np.uint64]:
        """Hashes of all k-grams, [n - k + 1]; computed once for each ``k``."""
        if k not in self._kgrams:
            self._kgrams[k] = kgram_hashes(self.tokens, k)
        return self._kgrams[k]

    def usable_prefix(self, tokens: Tokens, max_depth: int) -> int:
        """Length of the common prefix with ``tokens`` whose rows are no deeper than ``max_depth``."""
        return min(common_prefix(self.tokens, tokens), self.usable(max_depth))

    def usable(self, max_depth: int) -> int:
        """Number of leading rows that are no deeper than ``max_depth``."""
        deeper = np.flatnonzero(self.depth > max_depth)
        return int(deeper[0]) if deeper.size else len(self.tokens)


@dataclass(frozen=True)
class View:
    """The leading rows of an entry that a policy's depth allows: what matching and rearranging get to see."""

    entry: Entry
    length: int

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def tokens(self) -> Tokens:
        return self.entry.tokens[: self.length]

    @property
    def rows(self) -> list[tuple[Tensor, Tensor]]:
        return self.entry.rows
