"""Find the entry that shares the longest prefix: chained hashes of token blocks, then the tokens themselves.

Block hashing is vLLM's (automatic prefix caching). A hash hit is only a candidate: the caller compares tokens, because
hashes collide (CVE-2025-25183).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from semshare_core.match.plan import Tokens


class PrefixIndex:
    """Entry ids by the hash chain of their leading blocks."""

    def __init__(self, block_tokens: int) -> None:
        self._block = block_tokens
        self._holders: dict[int, set[str]] = {}

    def add(self, name: str, tokens: Tokens) -> None:
        for key in self._chain(tokens):
            self._holders.setdefault(key, set()).add(name)

    def remove(self, name: str, tokens: Tokens) -> None:
        for key in self._chain(tokens):
            holders = self._holders.get(key, set())
            holders.discard(name)
            if not holders:
                self._holders.pop(key, None)

    def agreeing(self, tokens: Tokens) -> dict[str, int]:
        """Entries that agree with ``tokens`` on their first block at least, with the number of whole blocks."""
        found: dict[str, int] = {}
        for blocks, key in enumerate(self._chain(tokens), start=1):
            holders = self._holders.get(key)
            if not holders:
                break
            found.update(dict.fromkeys(holders, blocks))
        return found

    def _chain(self, tokens: Tokens) -> Iterator[int]:
        key = 0
        flat = np.ascontiguousarray(tokens)
        for start in range(0, len(flat) - self._block + 1, self._block):
            key = hash((key, flat[start : start + self._block].tobytes()))
            yield key
