"""Distances along a prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def since_last(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Distance [n] to the nearest marked token at or before each token; n where there is none."""
    last = last_marked(marked)
    return np.where(last >= 0, np.arange(len(marked)) - last, len(marked))


def last_marked(marked: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The index [n] of the nearest marked token at or before each token; -1 where there is none."""
    return np.maximum.accumulate(np.where(marked, np.arange(len(marked)), -1))
