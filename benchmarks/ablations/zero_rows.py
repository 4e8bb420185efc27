"""Zeros instead of the rows that fuzzy tokens are matched to: the paper's ablation of what those rows are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill import selective as room
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.rearrange import Pair, ReferenceRows


@contextmanager
def zero_rows() -> Iterator[None]:
    """For the time of the context, in every selective prefill."""
    lay_rows = vars(room)["lay_rows"]  # whatever stands there now

    def lay(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[ReferenceRows],
        wanted: NDArray[np.bool_],
        **settings: bool,
    ) -> None:
        lay_rows(cache, spec, plan, references, wanted, **settings)
        fuzzy = wanted & (plan.source == Source.FUZZY)
        if fuzzy.any():
            for layer in cache.layers:
                layer.fill_later(partial(_zero, to_torch(np.flatnonzero(fuzzy))))

    with patch.object(room, "lay_rows", lay):
        yield


def _zero(rows: Tensor, buffers: Pair) -> None:
    for buffer in buffers:
        buffer.index_fill_(2, rows.to(buffer.device), 0)
