"""Distances along a prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def since_last(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Distance [n] to the nearest marked token at or before each token; n where there is none."""
    n = len(marked)
    last = np.maximum.accumulate(np.where(marked, np.arange(n), -1))
    return np.where(last >= 0, np.arange(n) - last, n)
