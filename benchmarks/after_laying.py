"""What benchmarks do to reused rows once they are laid into a cache: one place that knows how to get between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.plan import ReusePlan
from semshare_core.model.spec import ModelSpec
from semshare_core.pool.entry import View
from semshare_core.prefill import selective as room
from semshare_core.prefill.cache import MergedCache

Change = Callable[[MergedCache, ModelSpec, ReusePlan, Sequence[View], NDArray[np.bool_]], None]
"""Gets what ``lay_rows`` got: the cache, the model's spec, the plan, its references, and bool [n], the tokens laid."""


@contextmanager
def after_laying(change: Change) -> Iterator[None]:
    """For the time of the context, ``change`` follows ``lay_rows`` in every selective prefill."""
    lay_rows = vars(room)["lay_rows"]  # whatever stands there now

    def lay(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[View],
        wanted: NDArray[np.bool_],
        **settings: bool,
    ) -> None:
        lay_rows(cache, spec, plan, references, wanted, **settings)
        change(cache, spec, plan, references, wanted)

    with patch.object(room, "lay_rows", lay):
        yield
