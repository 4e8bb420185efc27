"""Recomputed tokens that start in the middle: from the hidden state that their reference had there.

Of a token that stands in an identical run the reference's state at a third of the depth is taken for its own; the
layers below are not computed, and what that saves is spent on more tokens. For models of the Llama kind, as the demo's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.budget.needs import but_last
from semshare_core.budget.recompute import RecomputePlan
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.cache_argument import with_cache
from semshare_core.pool.entry import View
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.rearrange import lay_rows
from semshare_core.prefill.selective import Prefilled, SelectivePrefill
from semshare_core.select import Selection

_DEPTH = 1 / 3


@contextmanager
def mid_layer() -> Iterator[None]:
    """For the time of the context, in every selective prefill that has tokens to choose."""
    select = SelectivePrefill.selective

    def selective(
        self: SelectivePrefill,
        ids: Tensor,
        plan: ReusePlan,
        references: Sequence[View],
        recompute: RecomputePlan,
        selection: Selection,
        capacity: int,
        **more: Any,
    ) -> Prefilled:
        n, start = len(ids), round(_DEPTH * self.n_layers)
        startable = ~recompute.must & (plan.source >= Source.MOVED) & but_last(n)
        made = select(self, ids, plan, references, recompute, selection, capacity, **more)
        started = made.recomputed & startable
        if not started.any():
            return made
        saved = int(started.sum()) * start // (self.n_layers - start)  # rows a layer, for what the layers below spare
        made = select(self, ids, plan, references, recompute.extend(saved), selection, capacity, **more)
        started = made.recomputed & startable
        cache = MergedCache(self.n_layers, capacity)
        lay_rows(cache, self.spec, plan, references, plan.served & but_last(n))
        states = _states(self, plan, references, np.flatnonzero(started), start)
        _run(self, cache, ids, made.recomputed & but_last(n) & ~started, started, states, start)
        cache.finish(n - 1)
        return replace(made, cache=cache, layer_rows=made.layer_rows - int(started.sum()) * start)

    with patch.object(SelectivePrefill, "selective", selective):
        yield


@torch.no_grad()
def _states(
    prefill: SelectivePrefill, plan: ReusePlan, references: Sequence[View], tokens: NDArray[np.int64], layer: int
) -> Tensor:
    """What reached ``layer`` in the references where ``tokens`` stood: [1, tokens, hidden]."""
    device = prefill.model.device
    states = torch.zeros((1, len(tokens), prefill.model.config.hidden_size), dtype=prefill.model.dtype, device=device)
    by_id = {reference.id: reference.tokens for reference in references}
    for number, name in enumerate(plan.reference_ids):
        here = np.flatnonzero(plan.reference[tokens] == number)
        if here.size:
            read = to_torch(by_id[name], device)[None]
            at = prefill.model.base_model(input_ids=read, output_hidden_states=True).hidden_states[layer]
            states[:, to_torch(here, device)] = at[:, to_torch(plan.position[tokens[here]], device)]
    return states


@torch.no_grad()
def _run(
    prefill: SelectivePrefill,
    cache: MergedCache,
    ids: Tensor,
    whole: NDArray[np.bool_],
    started: NDArray[np.bool_],
    states: Tensor,
    start: int,
) -> None:
    """Compute tokens ``whole`` in all layers, and those of ``started`` from layer ``start`` on, out of ``states``."""
    model: Any = prefill.model.base_model
    visible = len(ids) - 1
    below, above = (to_torch(np.flatnonzero(rows), ids.device) for rows in (whole, whole | started))
    cache.begin([below] * start + [above] * (prefill.n_layers - start), visible, None)
    hidden = model.embed_tokens(ids[below][None])
    rows = below
    for index, layer in enumerate(prefill.spec.layers):
        if index == start:
            joined = torch.empty((1, len(above), hidden.shape[2]), dtype=hidden.dtype, device=hidden.device)
            joined[:, torch.searchsorted(above, below)] = hidden
            joined[:, torch.searchsorted(above, to_torch(np.flatnonzero(started), ids.device))] = states
            hidden, rows = joined, above
        hidden = layer(
            hidden,
            attention_mask=prefill.spec.mask(rows, visible, None, hidden.dtype),
            position_ids=rows[None],
            **with_cache(layer, cache),
            position_embeddings=model.rotary_emb(hidden, rows[None]),
        )
