"""Zeros instead of the rows that fuzzy tokens are matched to: the paper's ablation of what those rows are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.after_laying import after_laying
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import ModelSpec
from semshare_core.pool.entry import View
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.rearrange import Pair


@contextmanager
def zero_rows() -> Iterator[None]:
    """For the time of the context, in every selective prefill."""

    def zero(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[View],
        wanted: NDArray[np.bool_],
    ) -> None:
        fuzzy = wanted & (plan.source == Source.FUZZY)
        if fuzzy.any():
            for layer in cache.layers:
                layer.fill_later(partial(_zero, to_torch(np.flatnonzero(fuzzy))))

    with after_laying(zero):
        yield


def _zero(rows: Tensor, buffers: Pair) -> None:
    for buffer in buffers:
        buffer.index_fill_(2, rows.to(buffer.device), 0)
