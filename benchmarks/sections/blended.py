"""Rows of two readings in one cache: what some ideas serve instead of one row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.match.plan import ReusePlan
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.rearrange import ReferenceRows, lay_rows


def blend_in(
    cache: MergedCache,
    spec: ModelSpec,
    plan: ReusePlan,
    references: Sequence[ReferenceRows],
    wanted: NDArray[np.bool_],
    weight: Tensor,
) -> None:
    """Move the rows that lie in ``cache`` where ``wanted`` [n] holds towards those that ``plan`` serves there.

    Args:
        weight: of the plan's rows, in [0, 1]; [wanted, 1], or one for all.
    """
    other = MergedCache(len(cache.layers), cache.layers[0].capacity)
    lay_rows(other, spec, plan, references, wanted)
    rows = to_torch(np.flatnonzero(wanted))
    for layer, second in zip(cache.layers, other.layers, strict=True):
        for own, its in zip(layer.buffers, second.buffers, strict=True):
            here = rows.to(own.device)
            own[:, :, here] = torch.lerp(own[:, :, here], its[:, :, here], weight.to(own))
