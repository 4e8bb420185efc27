"""Find the entries that share the longest prefix: hashes of the leading token blocks, then the tokens themselves.

Block hashing is vLLM's (automatic prefix caching). A hash hit is only a candidate: the caller compares tokens, because
hashes collide (CVE-2025-25183). Ours are sums, so that all leading blocks are hashed in one go: each pair of a token
and its position is mixed with a secret of the process and the mixed numbers are added up (AdHash: Bellare and
Micciancio, "A New Paradigm for Collision-Free Hashing: Incrementality at Reduced Cost", EUROCRYPT 1997). A polynomial
modulo 2**64 would be as quick, but the Thue-Morse word makes it collide whatever its base.
"""

from __future__ import annotations

import secrets

import numpy as np

from semshare_core.pool.indexes.mark_index import MarkIndex, Marks
from semshare_core.tokens import Tokens

_SECRET = np.uint64(secrets.randbits(64))
_FOLLOWED = 64  # entries that agree: a system prompt may stand before every entry of the pool


class PrefixIndex:
    """Entry names by leading blocks. Locking and memory: see :class:`MarkIndex`; a mark for each whole block."""

    def __init__(self, block_tokens: int) -> None:
        self._block = block_tokens
        self._marks = MarkIndex()

    def __len__(self) -> int:
        return len(self._marks)

    @property
    def n_bytes(self) -> int:
        return self._marks.n_bytes

    def add(self, name: str, tokens: Tokens) -> None:
        """Enter ``name``, which must not be there, with its ``tokens`` int64 [n]."""
        self._marks.add(name, block_marks(tokens, self._block))

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not there."""
        self._marks.remove(name)

    def agreeing(self, tokens: Tokens) -> dict[str, int]:
        """Entries that agree with ``tokens`` int64 [n] on one whole block or more, and on how many; most first.

        At most 64: those that agree on most blocks, and of equally many the ones added last.
        """
        hits = self._marks.holders(block_marks(tokens, self._block), _FOLLOWED)
        order = np.argsort(-hits.mark, kind="stable")
        holders, first = np.unique(hits.holder[order], return_index=True)
        # Who holds a mark holds those before it, too: these are the deepest although few of each mark were followed.
        chosen = np.argsort(first)[:_FOLLOWED]
        blocks = hits.mark[order][first[chosen]] + 1
        return {hits.names[holder]: int(count) for holder, count in zip(holders[chosen], blocks, strict=True)}


def block_marks(tokens: Tokens, block: int) -> Marks:
    """Hashes of the leading 1, 2, 3, ... blocks of ``block`` tokens, [n // block]; other in every process."""
    whole = len(tokens) // block * block
    mixed = (tokens[:whole].astype(np.uint64) << np.uint64(32)) | np.arange(whole, dtype=np.uint64)
    mixed ^= _SECRET
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's finaliser (Steele 2014)
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.cumsum(mixed, dtype=np.uint64)[block - 1 :: block]
