"""Token ids and positions as arrays, and how far two prompts begin alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Positions = NDArray[np.int64]


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that ``a`` and ``b`` share.

    Keys and values of a token depend on the tokens before it and on nothing after it. So the rows of a common prefix
    are those that a full prefill would compute (the fact behind vLLM's automatic prefix caching, arXiv 2309.06180), and
    to reuse them loses nothing.
    """
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if differs.size else n
