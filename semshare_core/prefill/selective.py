"""Selective prefill: lay the reused rows, measure if needed, choose tokens, and recompute them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core.budget.needs import but_last
from semshare_core.budget.recompute import Layers, RecomputePlan
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention.bit_blocks import block_of, passes
from semshare_core.model.attention.by_rows import attends_by_rows
from semshare_core.model.attention.grouped import grouped_attention
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.spec import ModelSpec, decoder_layers, measure_spec
from semshare_core.prefill.attention_probe import hot_tokens, influence, mean_attention, watch_tail
from semshare_core.prefill.cache import MergedCache
from semshare_core.prefill.captured import CapturedPasses
from semshare_core.prefill.forward import CHUNK_ROWS, RowForward
from semshare_core.prefill.rearrange import ReferenceRows, lay_rows
from semshare_core.prefill.trial import try_out
from semshare_core.process.interrupt import NEVER, Interrupt
from semshare_core.select import Evidence, Selection
from semshare_core.select.base import HOT_MASS

_PROBE_LAYER = 1  # the keys of layer 0 depend only on their own token; those of layer 1 depend on the context


@dataclass(frozen=True)
class Prefilled:
    """A filled cache. It lacks the last ``pending`` prompt tokens, which the first decoding step computes.

    Attributes:
        layer_rows: computed and pending rows, summed over the layers, without the last token's.
        recomputed: bool [n], the tokens that the deepest layer computes. The last prompt token counts as computed.
    """

    cache: MergedCache
    layer_rows: int
    recomputed: NDArray[np.bool_]
    pending: int = 1


class SelectivePrefill:
    """Fills caches for one model. Not thread-safe, because it puts hooks on the model while the model runs."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec) -> None:
        self.model = model
        self.spec = spec
        self.n_layers = len(spec.layers)
        self._forward = RowForward(model, spec)
        self._structure: tuple[Any, ...] = ()
        self._identity: str | None = None
        self._foreign_code = False
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.captured = self._new_captured()

    def _new_captured(self) -> CapturedPasses | None:
        if not self.spec.by_rows:
            return None
        return CapturedPasses(self.model, self.spec, self._forward, keeps_logits=self._keeps_logits)

    @property
    def layers(self) -> Layers:
        """The model's layers."""
        return Layers(self.n_layers, self.spec.observable, self.model.device.type)

    def follow(self, structure: tuple[Any, ...], identity: str | None = None, *, foreign_code: bool = False) -> None:
        """Examine the model again if its layers, or the modules that make its positions and masks, have changed.

        Args:
            structure: :attr:`semshare_core.model.weights.Weights.structure`.
            identity: names the present weights; None: those of the last time.
            foreign_code: somebody's hooks run inside of the model: a graph would leave them out.

        Raises:
            UnsupportedModelError: the changed model cannot be served.
        """
        layers = decoder_layers(self.model)
        unchanged = self._structure in ((), structure)
        if not unchanged or list(map(id, layers)) != list(map(id, self.spec.layers)):
            self.spec = try_out(self.model, measure_spec(self.model))
            self.n_layers = len(layers)
            self._forward = RowForward(self.model, self.spec)
            self.captured = self._new_captured()
        elif identity not in (None, self._identity) and self.captured is not None:
            self.captured = self._new_captured()  # other adapters are other code
        self._structure, self._identity = structure, identity or self._identity
        self._foreign_code = foreign_code

    def attention(self) -> AbstractContextManager[None]:
        """The attention for rows that follow other rows."""
        return grouped_attention(self.model, rows=self.spec.by_rows)

    def _new_cache(self, capacity: int, interrupt: Interrupt) -> MergedCache:
        """An empty cache with room for ``capacity`` rows."""
        if self.captured is not None and attends_by_rows(self.model) and not self._foreign_code:
            return self.captured.new_cache(capacity, interrupt)
        return MergedCache(self.n_layers, capacity, interrupt)

    def prefill_suffix(
        self,
        ids: Tensor,
        plan: ReusePlan,
        references: Sequence[ReferenceRows],
        capacity: int,
        *,
        complete: bool = False,
        interrupt: Interrupt = NEVER,
    ) -> Prefilled:
        """Lay the prefix and compute the suffix. The result equals a full prefill.

        The last pass is left to the first decoding step, so that the weights are read only once for both. With
        ``complete`` only the last token is left. ``interrupt`` can end the call between two layers.
        """
        n = len(ids)
        start = plan.prefix_tokens
        cache = self._new_cache(capacity, interrupt)
        lay_rows(cache, self.spec, plan, references, plan.source == Source.PREFIX)
        limit = self.spec.static_until
        # beyond the limit the rotary frequencies depend on the prompt's length
        one_pass = (limit is not None and n > limit) or self.stands_alone(plan)
        if one_pass and complete:
            self._forward.run_whole(cache, ids)
            pending = 1
        elif one_pass:
            pending = n
        elif self.captured is not None and self.captured.serves(cache, n - start):
            cache.ready = self.captured.logits(cache, ids, np.arange(start, n))
            pending = 1
        else:
            # the last part runs in the model's own code, with a mask
            longest = self._forward.chunk_rows or CHUNK_ROWS
            parts = passes(start, n - 1 if complete else n, block_of(self.model), longest)
            pending = 1 if complete else len(parts.pop())
            for part in parts:
                self.compute(cache, ids, part)
        cache.finish(n - pending)
        self._learn(cache)
        return Prefilled(cache, (n - 1 - start) * self.n_layers, plan.source != Source.PREFIX, pending)

    def lay_prefix(
        self, plan: ReusePlan, references: Sequence[ReferenceRows], capacity: int, interrupt: Interrupt
    ) -> MergedCache:
        """A cache with room for ``capacity`` rows that begins with the prefix of ``plan``."""
        cache = MergedCache(self.n_layers, capacity, interrupt)
        lay_rows(cache, self.spec, plan, references, plan.source == Source.PREFIX)
        return cache

    def compute(self, cache: MergedCache, ids: Tensor, part: range) -> None:
        """Compute the rows of ``part`` in all layers into ``cache``, which has all rows before them.

        ``ids`` [n] are the prompt's tokens. ``cache.interrupt`` can end the pass between two layers: what it computed
        until then is overwritten when the pass is run again. Its place in the bit blocks
        (:mod:`semshare_core.model.attention.bit_blocks`) decides whether the rows have the bits of one whole pass.
        """
        self._forward.run(cache, ids, [np.arange(part.start, part.stop)] * self.n_layers)

    def stands_alone(self, plan: ReusePlan) -> bool:
        """Whether the model computes the prompt in its own pass, without our masks."""
        return plan.prefix_tokens == 0 and self.spec.causal_without_mask

    @torch.no_grad()
    def last_logits(self, cache: Cache, ids: Tensor, pending: int) -> Tensor:
        """The next token's logits [vocabulary]. Computes the last ``pending`` rows of ``ids`` [n] into ``cache``."""
        if isinstance(cache, MergedCache) and (ready := cache.take_ready()) is not None:
            return ready.clone()
        n = len(ids)
        extra = with_cache(self.model, cache)
        if self.spec.takes_position_ids:
            extra["position_ids"] = torch.arange(n - pending, n, device=ids.device)[None]
        if self._keeps_logits:
            extra["logits_to_keep"] = 1
        output = self.model(input_ids=ids[None, n - pending :], use_cache=True, **extra)
        return output.logits[0, -1]

    def recompute_tail(self, cache: MergedCache, ids: Tensor, start: int) -> None:
        """Replace the rows from ``start`` on by those of ``ids`` [n]. The rows before stay."""
        rows = np.arange(start, len(ids))
        for layer in cache.layers:
            layer.reserve(len(ids))
        if len(rows):
            with self.attention():
                self._forward.run(cache, ids, [rows] * self.n_layers)
        cache.finish(len(ids))

    def selective(
        self,
        ids: Tensor,
        plan: ReusePlan,
        references: Sequence[ReferenceRows],
        recompute: RecomputePlan,
        selection: Selection,
        capacity: int,
        *,
        interrupt: Interrupt = NEVER,
    ) -> Prefilled:
        """Lay the rows that ``plan`` serves and recompute the tokens that matter.

        Args:
            ids: int64 [n], the prompt on the model's device.
            plan: each token's source. Tokens of the prefix are never computed.
            references: the prompts that the plan names.
            recompute: how many rows each layer computes.
            selection: ranks the tokens.
            capacity: the number of rows to reserve in the cache, at least n.
            interrupt: can end the call between two layers.
        """
        n = len(ids)
        cache = self._new_cache(capacity, interrupt)
        laid = plan.served & but_last(n)
        if recompute.observes:
            # new tokens have no rows yet, and uninitialised memory must not be read
            lay_rows(cache, self.spec, plan, references, laid, zero_new=True)
        evidence = Evidence(plan)
        if recompute.watched:
            evidence = self._watch(cache, ids, plan, recompute, selection)
        if recompute.probe:
            evidence = self._probe(cache, ids, recompute.suffix, evidence)
        sets = recompute.rows(selection.priority(evidence) if recompute.ranked else None)
        if not recompute.observes:
            laid[sets[-1]] = False
            lay_rows(cache, self.spec, plan, references, laid)
        if recompute.probe:  # the cache has all rows of the first layer; only chosen tokens pass through it again
            sets[0] = sets[1]
        if self._captures(cache, recompute):
            assert self.captured is not None
            cache.ready = self.captured.logits(cache, ids, np.append(sets[-1], n - 1))
        elif len(sets[0]):
            self._forward.run(cache, ids, sets)
        cache.finish(n - 1)
        self._learn(cache)
        recomputed = ~but_last(n)
        recomputed[sets[-1]] = True
        return Prefilled(cache, recompute.layer_rows, recomputed)

    def _captures(self, cache: MergedCache, recompute: RecomputePlan) -> bool:
        """Whether one captured pass computes the chosen rows, the same at each layer, and the last token."""
        rows = int(recompute.counts[0])
        same = not recompute.probe and bool((recompute.counts == rows).all())
        return same and self.captured is not None and self.captured.serves(cache, rows + 1)

    def _learn(self, cache: MergedCache) -> None:
        if self.captured is not None:
            self.captured.learn(cache)

    def _watch(
        self, cache: MergedCache, ids: Tensor, plan: ReusePlan, recompute: RecomputePlan, selection: Selection
    ) -> Evidence:
        """Watch the attention of the last tokens over the reused rows."""
        watched = recompute.watched
        if not selection.needs_hot and self.captured is not None and self.captured.serves(cache, watched):
            tail = np.arange(max(0, len(ids) - watched), len(ids))
            restore = not bool(recompute.must[tail[:-1]].all())  # the last token is computed in any case
            return Evidence(plan, influence=self.captured.influence(cache, ids, tail, restore=restore))
        reduce = mean_attention if selection.needs_hot else influence
        layers = watch_tail(self.model, self.spec, cache, ids, len(ids), watched, reduce)
        if selection.needs_hot:
            return Evidence(plan, hot=hot_tokens(layers.mean(axis=0), HOT_MASS))
        return Evidence(plan, influence=layers.sum(axis=0))

    def _probe(self, cache: MergedCache, ids: Tensor, suffix: NDArray[np.bool_], evidence: Evidence) -> Evidence:
        """Compute the first two layers for all tokens, and measure how far the reused rows lie from the fresh ones."""
        n_rows = len(ids) - 1
        reused = tuple(buffer[:, :, :n_rows].clone() for buffer in cache.layers[_PROBE_LAYER].buffers)
        rows = np.flatnonzero(suffix)
        self._forward.run(cache, ids, [rows] * self.n_layers, last_layer=_PROBE_LAYER)
        measured = []
        for before, after in zip(reused, cache.layers[_PROBE_LAYER].buffers, strict=True):
            distance = (after[:, :, :n_rows].float() - before.float()).pow(2).sum(dim=(0, 1, 3)).sqrt()
            distance = torch.nan_to_num(distance, nan=0.0, posinf=0.0)  # new tokens had no reused row
            measured.append(np.append(distance.cpu().numpy(), np.float32(0)) * suffix)
        return replace(evidence, key_deviation=measured[0], value_deviation=measured[1])
