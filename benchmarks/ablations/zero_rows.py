"""Zeros instead of the rows that fuzzy tokens are matched to: the paper's ablation of what those rows are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.spec import ModelSpec
from semshare_core.prefill import selective as room
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.rearrange import Pair, ReferenceRows, Rows, lay_rows

_NAME = "zeros"


@dataclass(frozen=True)
class _ZeroRows:
    """Rows of zeros, as many as ``length``; also a reference with them as its only piece."""

    like_these: Rows
    length: int
    id: str = _NAME
    start: int = 0
    in_memory: bool = True

    @property
    def pieces(self) -> Sequence[_ZeroRows]:
        return [self]

    @property
    def rows(self) -> Rows:
        return self

    def opened(self) -> Rows:
        return self

    def like(self, index: int) -> Pair:
        return self.like_these.like(index)

    def layer(self, index: int) -> Pair:
        keys, values = (
            torch.zeros((*like.shape[:2], self.length, like.shape[3]), dtype=like.dtype, device=like.device)
            for like in self.like(index)
        )
        return keys, values


@contextmanager
def zero_rows() -> Iterator[None]:
    """For the time of the context, in every selective prefill."""

    def lay(
        cache: MergedCache,
        spec: ModelSpec,
        plan: ReusePlan,
        references: Sequence[ReferenceRows],
        wanted: NDArray[np.bool_],
        *,
        zero_new: bool = False,
    ) -> None:
        fuzzy = plan.source == Source.FUZZY
        if fuzzy.any():
            zeros = _ZeroRows(references[0].pieces[0].rows.opened(), len(plan))
            plan = replace(
                plan,
                reference=np.where(fuzzy, len(plan.reference_ids), plan.reference),
                position=np.where(fuzzy, np.arange(len(plan)), plan.position),
                reference_ids=(*plan.reference_ids, _NAME),
            )
            references = [*references, zeros]
        lay_rows(cache, spec, plan, references, wanted, zero_new=zero_new)

    with patch.object(room, "lay_rows", lay):
        yield
