"""Fuzzy tokens that are not recomputed, hidden from whatever comes behind them instead of served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention import grouped as grouped_attention
from semshare_core.prefill.cache import to_torch
from semshare_core.prefill.selective import Prefilled, SelectivePrefill

_SERVING = ("sdpa", grouped_attention._NAME)


@contextmanager
def masked_fuzzy() -> Iterator[None]:
    """For the time of the context. What is chosen is what would be chosen if they were served."""
    hidden: list[Tensor] = []
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in _SERVING}
    select = SelectivePrefill.selective

    def selective(self: SelectivePrefill, ids: Tensor, plan: ReusePlan, *rest: Any, **more: Any) -> Prefilled:
        hidden.clear()
        made = select(self, ids, plan, *rest, **more)
        left = (plan.source == Source.FUZZY) & ~made.recomputed
        if left.any():
            hidden.append(to_torch(np.flatnonzero(left), ids.device))
            rows = np.flatnonzero(made.recomputed[:-1])
            self._forward.run(made.cache, ids, [rows] * self.n_layers)
            made.cache.finish(len(ids) - 1)
        return made

    def attending(name: str) -> Any:
        def attend(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *args: Any, **extra: Any
        ) -> Any:
            if hidden:
                assert mask is not None or query.shape[2] == 1, "a mask that is left out is causal"
                queries = (1, 1, query.shape[2], key.shape[2])
                mask = torch.ones(queries, dtype=torch.bool, device=key.device) if mask is None else mask.clone()
                never = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
                mask[..., hidden[0][hidden[0] < key.shape[2]]] = never
            return before[name](module, query, key, value, mask, *args, **extra)

        return attend

    try:
        for name in _SERVING:
            AttentionInterface.register(name, attending(name))
        with patch.object(SelectivePrefill, "selective", selective):
            yield
    finally:
        for name, attend in before.items():
            AttentionInterface.register(name, attend)
