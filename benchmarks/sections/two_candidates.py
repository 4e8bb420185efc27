"""Two candidates for every fuzzy token: the mean of the row it is matched to and of the next best one near by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.after_laying import after_laying
from benchmarks.sections.blended import blend_in
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.match.token_table import TokenTable
from semshare_core.model.spec import ModelSpec
from semshare_core.pool.entry import View
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.selective import Prefilled, SelectivePrefill

NEAR = 16  # tokens to either side of the first candidate


@contextmanager
def two_candidates() -> Iterator[None]:
    """For the time of the context, in every selective prefill."""
    reading: list[tuple[Tensor, TokenTable]] = []
    select = SelectivePrefill.selective
    table_of = cache(lambda prefill: TokenTable(prefill.model.get_input_embeddings().weight))

    def selective(self: SelectivePrefill, ids: Tensor, *rest: Any, **more: Any) -> Prefilled:
        reading[:] = [(ids, table_of(self))]
        return select(self, ids, *rest, **more)

    def mix(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[View],
        wanted: NDArray[np.bool_],
    ) -> None:
        fuzzy = wanted & (plan.source == Source.FUZZY)
        if not fuzzy.any():
            return
        ids, table = reading[0]
        position = _next_best(plan, np.flatnonzero(fuzzy), ids.cpu().numpy(), references, table)
        blend_in(cache, spec, replace(plan, position=position), references, fuzzy, torch.tensor(0.5))

    with patch.object(SelectivePrefill, "selective", selective), after_laying(mix):
        yield


def _next_best(
    plan: ReusePlan, fuzzy: NDArray[np.int64], ids: NDArray[np.int64], references: Sequence[View], table: TokenTable
) -> NDArray[np.int64]:
    """The plan's positions; those of the ``fuzzy`` tokens at the most similar token near by, their own left out."""
    position = plan.position.copy()
    by_id = {reference.id: reference.tokens for reference in references}
    for number, name in enumerate(plan.reference_ids):
        here = fuzzy[plan.reference[fuzzy] == number]
        if here.size and len(by_id[name]) > 1:
            apart = np.abs(np.arange(len(by_id[name])) - plan.position[here, None])
            similarity = table.cosines(ids[here], by_id[name])
            position[here] = np.where((apart > NEAR) | (apart == 0), -np.inf, similarity).argmax(axis=1)
    return position
