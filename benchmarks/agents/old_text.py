"""Which tokens of a prompt are old text: whoever serves the chain has read them before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from semshare_core.tokens import Tokens

RUN = 24
"""Fewer identical tokens are a quotation or chance."""


class OldText:
    """The prompts of a chain so far."""

    def __init__(self, run: int = RUN) -> None:
        self._run = run
        self._seen: set[bytes] = set()

    def add(self, ids: Tokens) -> None:
        """``ids``: int64 [n], a prompt that was served."""
        self._seen.update(self._runs(ids))

    def marks(self, ids: Tokens) -> NDArray[np.bool_]:
        """Bool [n]: tokens that stand in a run of at least ``run`` tokens of an earlier prompt."""
        marked = np.zeros(len(ids), bool)
        for start, run in enumerate(self._runs(ids)):
            if run in self._seen:
                marked[start : start + self._run] = True
        return marked

    def _runs(self, ids: Tokens) -> Sequence[bytes]:
        whole = np.ascontiguousarray(ids, np.int64)
        return [whole[start : start + self._run].tobytes() for start in range(len(whole) - self._run + 1)]
