"""How many rows are computed at each layer, so that the average over layers stays within the ratio.

``constant`` keeps one set; ``decay`` shrinks it by a factor per layer, as SemShareKV does (arXiv 2509.24832,
exponential decay of recomputation with depth).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.config import Schedule


def rows_per_layer(
    layer_rows: float, n_layers: int, schedule: Schedule, decay: float, *, first: int | None, minimum: int, maximum: int
) -> NDArray[np.int64]:
    """Rows at each layer [n_layers], never fewer than ``minimum`` nor more than ``maximum``, never growing.

    Args:
        layer_rows: what may be spent: the sum of rows over all layers.
        first: rows of the first layer when it must see everything (to measure deviation); None: like the others.
        minimum: rows that are computed in every layer whatever the budget.
        maximum: rows that there are.
    """
    fixed = 0 if first is None else 1
    selective = n_layers - fixed
    spend = layer_rows - (first or 0)
    weights = np.ones(selective) if schedule == "constant" else decay ** np.arange(selective)
    # floor() of the scaled weights keeps the sum within the budget; clipping at `minimum` takes it from the others
    low, high = 0.0, float(maximum) / weights.min()
    for _ in range(200):  # steep decays begin with a wide bracket
        middle = (low + high) / 2
        if np.clip(np.floor(middle * weights + 1e-9), minimum, maximum).sum() > spend:
            high = middle
        else:
            low = middle
    rows = np.clip(np.floor(low * weights + 1e-9), minimum, maximum).astype(np.int64)
    return np.concatenate(([first], rows)).astype(np.int64) if first is not None else rows
