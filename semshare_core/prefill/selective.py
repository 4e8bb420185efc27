"""Selective prefill: lay the reused rows, measure where needed, choose, recompute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from semshare_core.config import ReusePolicy
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.prefill.anatomy import Anatomy
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.forward import RowForward
from semshare_core.prefill.observe import hot_tokens, tail_attention
from semshare_core.prefill.rearrange import ReferenceRows, lay_rows
from semshare_core.prefill.schedule import rows_per_layer
from semshare_core.prefill.selection import Evidence, Selection, selection_for

_PROBE_LAYER = 1  # keys of layer 0 know only their own token; those of layer 1 know the context
_HOT_MASS = 0.55
_HOT_WINDOW = 16


@dataclass(frozen=True)
class Budget:
    """How much may be computed.

    Attributes:
        ratio: ceiling of computed tokens / prompt tokens, averaged over layers, first layer and last token included.
        fill: spend all of it (a ratio asked for), or only what the strategy finds worth it (a level's ceiling).
    """

    ratio: float
    fill: bool


@dataclass(frozen=True)
class Prefilled:
    """A cache that holds the rows of all prompt tokens but the last, which the first decoding step computes.

    Attributes:
        layer_rows: rows computed, summed over the layers.
        recomputed: bool [n], tokens computed in the deepest layer (the last prompt token counts as computed).
    """

    cache: MergedCache
    layer_rows: int
    recomputed: NDArray[np.bool_]


class SelectivePrefill:
    """Fills caches for one model. Not thread-safe: hooks sit on the model while it runs."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model = model
        self.anatomy = anatomy
        self.n_layers = len(anatomy.layers)
        self._forward = RowForward(model, anatomy)

    def exact(self, ids: Tensor, plan: ReusePlan, references: Sequence[ReferenceRows], capacity: int) -> Prefilled:
        """Lay the exact prefix and compute the rest: equal to a full prefill. ``plan`` may serve nothing."""
        n = len(ids)
        prefix = plan.source == Source.PREFIX
        cache = MergedCache(self.n_layers, capacity)
        lay_rows(cache, self.anatomy, plan, references, prefix & _but_last(n))
        rest = np.flatnonzero(~prefix & _but_last(n))
        if len(rest):
            self._forward.run(cache, ids, [to_torch(rest, ids.device)] * self.n_layers)
        cache.finish(n - 1)
        return Prefilled(cache, len(rest) * self.n_layers, ~prefix)

    def selective(
        self,
        ids: Tensor,
        plan: ReusePlan,
        references: Sequence[ReferenceRows],
        policy: ReusePolicy,
        budget: Budget,
        fresh_from: int,
        capacity: int,
    ) -> Prefilled:
        """Reuse what ``plan`` serves and recompute the tokens that matter.

        Args:
            ids: int64 [n] prompt tokens on the model's device.
            plan: sources per token; tokens of the prefix are never computed.
            references: the prompts that the plan names.
            policy: selection strategy and schedule.
            budget: how many rows may be computed.
            fresh_from: the question's first token; everything from there on is computed.
            capacity: rows to reserve in the cache, at least n.
        """
        n = len(ids)
        window = (plan.source != Source.PREFIX) & _but_last(n)
        must = window & ((plan.source == Source.NEW) | (np.arange(n) >= fresh_from))
        # the first token is the attention sink of every head: a row that was not first elsewhere cannot stand in for it
        must[0] = window[0] and plan.position[0] != 0
        selection = selection_for(policy)
        wanted = must | (window & selection.structural(plan))
        spend = budget.ratio * n * self.n_layers - self.n_layers  # the last token passes through every layer, too
        measure = self.n_layers > _PROBE_LAYER + 1 and (
            selection.needs_deviation or (wanted.sum() * self.n_layers > spend and wanted.sum() > must.sum())
        )
        if spend >= window.sum() * self.n_layers - 1e-6:  # everything may be computed: nothing to choose
            measure, must = False, window
        counts = rows_per_layer(
            spend,
            self.n_layers,
            policy.schedule,
            policy.decay,
            first=int(window.sum()) if measure else None,
            minimum=int(must.sum()),
            maximum=int(window.sum() if budget.fill else (wanted.sum() if not measure else window.sum())),
        )
        cache = MergedCache(self.n_layers, capacity)
        if measure:
            lay_rows(cache, self.anatomy, plan, references, plan.served & _but_last(n), zero_fuzzy=policy.zero_fuzzy)
            evidence = self._measure(cache, ids, plan, window, selection)
        else:
            evidence = Evidence(plan)
        order = _ranking(selection.priority(evidence), must, window)
        sets = [np.sort(order[:count]) for count in counts]
        if not measure:
            unlaid = plan.served & _but_last(n)
            unlaid[sets[-1]] = False
            lay_rows(cache, self.anatomy, plan, references, unlaid, zero_fuzzy=policy.zero_fuzzy)
        if len(sets[-1]) or len(sets[0]):
            rows = [to_torch(layer_set, ids.device) for layer_set in sets]
            if measure:  # all tokens' first rows are in already; the chosen ones pass through again to go deeper
                rows[0] = rows[1]
            self._forward.run(cache, ids, rows)
        cache.finish(n - 1)
        recomputed = ~_but_last(n)
        recomputed[sets[-1]] = True
        return Prefilled(cache, int(counts.sum()), recomputed)

    def _measure(
        self, cache: MergedCache, ids: Tensor, plan: ReusePlan, window: NDArray[np.bool_], selection: Selection
    ) -> Evidence:
        """Fresh keys and values of the first two layers for all tokens; how far the reused ones were from them."""
        n_rows = len(ids) - 1
        hot = None
        if selection.needs_attention:
            new = to_torch(np.flatnonzero(plan.source == Source.NEW), ids.device)
            for layer in cache.layers:  # nothing is known of new tokens yet; what memory held must not be read
                for buffer in layer.buffers:
                    buffer.index_fill_(2, new, 0)
            kept = [tuple(buffer.clone() for buffer in layer.buffers) for layer in cache.layers]
            attention = tail_attention(self.model, self.anatomy, cache, ids, n_rows, _HOT_WINDOW)
            for layer, (keys, values) in zip(cache.layers, kept, strict=True):
                layer.buffers[0].copy_(keys)
                layer.buffers[1].copy_(values)
            hot = np.append(hot_tokens(attention.mean(axis=0), _HOT_MASS), True)
        reused = tuple(buffer[:, :, :n_rows].clone() for buffer in cache.layers[_PROBE_LAYER].buffers)
        rows = to_torch(np.flatnonzero(window), ids.device)
        self._forward.run(cache, ids, [rows] * self.n_layers, last_layer=_PROBE_LAYER)
        measured = []
        for before, after in zip(reused, cache.layers[_PROBE_LAYER].buffers, strict=True):
            distance = (after[:, :, :n_rows].float() - before.float()).pow(2).sum(dim=(0, 1, 3)).sqrt()
            distance = torch.nan_to_num(distance, nan=0.0, posinf=0.0)  # rows of new tokens held nothing
            measured.append(np.append(distance.cpu().numpy(), np.float32(0)) * window)
        return Evidence(plan, key_deviation=measured[0], value_deviation=measured[1], hot=hot)


def _but_last(n: int) -> NDArray[np.bool_]:
    """The rows a prefill computes: the last token belongs to the first decoding step."""
    rows = np.ones(n, bool)
    rows[-1] = False
    return rows


def _ranking(priority: NDArray[np.float64], must: NDArray[np.bool_], window: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Window tokens, those that must be computed first, then by falling priority; ties in text order."""
    rank = np.where(must, np.inf, priority)
    order = np.argsort(-rank, kind="stable")
    return order[window[order]]
