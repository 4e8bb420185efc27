"""The number of computed rows at each layer.

The ``constant`` schedule computes the same rows at each layer. ``decay`` computes fewer in each deeper layer, as
SemShareKV does (arXiv 2509.24832).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import Schedule


def rows_per_layer(
    layer_rows: float, n_layers: int, schedule: Schedule, decay: float, *, first: int | None, minimum: int, maximum: int
) -> NDArray[np.int64]:
    """Rows at each layer [n_layers]. They never grow with depth.

    Args:
        layer_rows: the budget: the sum of rows over all layers.
        first: the rows of the first layer if it must compute all, to measure deviations. None: like the other layers.
        minimum: the smallest number of rows at any layer, whatever the budget.
        maximum: the largest number of rows at any layer.
    """
    fixed = 0 if first is None else 1
    selective = n_layers - fixed
    spend = layer_rows - (first or 0)
    weights = np.ones(selective) if schedule == "constant" else decay ** np.arange(selective)
    # floor() of the scaled weights keeps the sum within the budget; clipping at `minimum` takes it from the others
    low, high = 0.0, float(maximum) / weights.min()
    for _ in range(200):  # a steep decay has a wide bracket
        middle = (low + high) / 2
        found = middle in (low, high)  # no number lies between them
        if np.floor(middle * weights + 1e-9).clip(minimum, maximum).sum() > spend:
            high = middle
        else:
            low = middle
        if found:
            break
    rows = np.floor(low * weights + 1e-9).clip(minimum, maximum).astype(np.int64)
    return np.concatenate(([first], rows)).astype(np.int64) if first is not None else rows
