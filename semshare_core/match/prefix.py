"""Longest exact prefix: the only reuse that loses nothing.

Keys and values of a token depend on the tokens before it and on nothing after it, so the rows of a common prefix are
those that a full prefill would compute (the fact behind vLLM's automatic prefix caching, arXiv 2309.06180).
"""

from __future__ import annotations

import numpy as np

from semshare_core.match.plan import Tokens


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of leading tokens that ``a`` and ``b`` share."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if differs.size else n
